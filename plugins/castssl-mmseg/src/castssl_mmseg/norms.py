"""Batch norms that mmengine synchronizes between processes, as ``sync_bn="torch"`` of a config asks for."""

from __future__ import annotations

from timm.layers.norm_act import SyncBatchNormAct
from torch import nn

from castssl.errors import ConfigError


def keep_activations(module: nn.Module) -> None:
    """Make synchronized norms of timm apply their activation again; call it after the conversion.

    timm's ``BatchNormAct2d`` applies an activation behind the norm.  mmengine and torch convert it to a plain
    ``SyncBatchNorm``: the activation is among its children, and nothing calls it.

    Raises:
        ConfigError: if the norms are those of mmcv, which castssl's norms of valid tokens cannot synchronize.
    """
    for part in module.modules():
        if type(part).__name__ == "SyncBatchNorm" and not isinstance(part, nn.SyncBatchNorm):
            raise ConfigError(
                f"sync_bn made {type(part).__module__}.SyncBatchNorm of a batch norm, with which castssl"
                " would normalize by the tokens of each process alone; set sync_bn='torch'"
            )
        if type(part) is nn.SyncBatchNorm and "act" in dict(part.named_children()):
            part.__class__ = SyncBatchNormAct
