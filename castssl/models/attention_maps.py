"""The attention of the class token to the tokens of each stage, recorded by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.models.cast import CAST
from castssl.models.timm_encoder import TimmEncoder, is_parted, prefix_tokens

Weights = dict[int, Tensor]
"""By stage: float32 (B, heads, N), the attention of the class token to each token."""


@contextmanager
def class_attention(encoder: Encoder) -> Iterator[Weights]:
    """Record the class token's attention in the last block of each stage that has blocks.

    A head on the class token of a stage, as H-CAST's, reads what this block gathered.  Block 9 of CAST-S,
    whose attention the paper's figures 22 and 23 show, is the last of stage 2.  The tokens share what the
    class token and other prefix tokens leave of 1; a padded token that takes no part in attention has 0.

    Args:
        encoder: CAST, or a ViT of timm with a class token.

    Yields:
        A dict that each forward pass fills anew.

    Raises:
        ConfigError: if the encoder has no attention of a class token that can be recorded.
    """
    weights: Weights = {}
    with ExitStack() as hooks:
        for stage, attention in _last_attentions(encoder).items():
            hook = partial(_record, partial(weights.__setitem__, stage), prefix_tokens(encoder))
            hooks.callback(attention.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield weights


def _record(
    keep: Callable[[Tensor], None],
    prefix: int,
    attention: Any,
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """A hook before an attention, which computes the row of the class token."""
    x, mask = (*args, options.get("attn_mask"))[:2]
    with torch.no_grad():
        query, key, _ = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = attention.q_norm(query[:, :, :1]), attention.k_norm(key)
        logits = (query * attention.scale @ key.transpose(-2, -1)).float()
        if mask is not None:
            row = mask[..., :1, :]
            logits = logits.masked_fill(~row, -torch.inf) if row.dtype == torch.bool else logits + row
        keep(logits.softmax(-1)[:, :, 0, prefix:])


def _last_attentions(encoder: Encoder) -> dict[int, nn.Module]:
    """The attention of the last block of each stage.

    Raises:
        ConfigError: if there is none, or it is not timm's.
    """
    blocks: dict[int, Any] = {}
    if isinstance(encoder, CAST):
        stages: Any = encoder.stages
        blocks = {number: stage.blocks[-1] for number, stage in enumerate(stages) if len(stage.blocks)}
    elif isinstance(encoder, TimmEncoder) and is_parted(network := encoder.network):
        ends = [*encoder.ends, len(network.blocks)] if network.cls_token is not None else []
        blocks = {number: network.blocks[end - 1] for number, end in enumerate(ends)}
    attentions: dict[int, nn.Module] = {
        number: attention
        for number, block in blocks.items()
        for attention in block.children()
        if isinstance(attention, Attention)
    }
    if not blocks or len(attentions) < len(blocks):
        raise ConfigError(
            f"{encoder.config.name or type(encoder).__name__} has no attention of a class token that can be"
            " recorded; take CAST, or a ViT of timm with a class token, such as"
            " timm:deit_small_patch16_224"
        )
    return attentions
