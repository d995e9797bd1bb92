"""Norms that mmengine's own conversion synchronizes, as a config with ``sync_bn="torch"`` asks for."""

from __future__ import annotations

import pytest
import torch
from mmengine.model import convert_sync_batchnorm
from torch import nn

from castssl.errors import ConfigError
from castssl_mmseg import CastEncoder, CastHead

SIDE = 64


def test_synchronized_norms_of_timm_keep_their_activations() -> None:
    model = nn.ModuleDict({"backbone": CastEncoder(model="timm:test_efficientnet", image_size=SIDE)}).eval()
    image = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (expected,) = model["backbone"](image)
        converted = convert_sync_batchnorm(model, "torch").eval()
        (found,) = converted["backbone"](image)
    norms = [part for part in converted.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    torch.testing.assert_close(found.x, expected.x)


def test_the_norm_of_a_head_and_of_a_stem_is_synchronized() -> None:
    backbone = CastEncoder(model="nano_seg", superpixels="grid:cell=8", image_size=SIDE)
    head = CastHead("fused", in_channels=backbone.dense_dim, num_classes=3)
    model = nn.ModuleDict({"backbone": backbone, "decode_head": head})
    model.eval()
    image = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model["decode_head"](model["backbone"](image))
        converted = convert_sync_batchnorm(model, "torch").eval()
        found = converted["decode_head"](converted["backbone"](image))
    assert any(type(part) is nn.SyncBatchNorm for part in converted["decode_head"].modules())
    torch.testing.assert_close(found, expected)


def test_norms_of_mmcv_are_refused() -> None:
    """mmcv's class, which needs its compiled operators, is a plain module of that name."""
    other = type("SyncBatchNorm", (nn.Module,), {"__module__": "mmcv.ops.sync_bn"})
    head = CastHead("fused", in_channels=8, num_classes=3)
    head.head.norm = other()
    with pytest.raises(ConfigError, match=r"made mmcv\.ops\.sync_bn\.SyncBatchNorm .* sync_bn='torch'"):
        convert_sync_batchnorm(head, "torch")
