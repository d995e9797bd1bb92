"""What poolings may ask of the attention before them, recorded from a block."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from castssl.contracts import Need


def record(block: Block, x: Tensor, mask: Tensor | None) -> dict[Need, Tensor]:
    """What poolings may ask of a block's attention, without the class token's row.

    Args:
        block: a timm block.
        x: its input, float (B, 1 + N, D).
        mask: (B, 1, 1, 1 + N), bool: True where a key takes part; or float: added to the logits.

    Returns:
        ``keys`` (B, N, d), mean over heads, and ``received`` float32 (B, N), the attention that each token
        got: mean over heads, sum over the queries that are not padding.
    """
    attention: Any = block.attn
    batch, count, _ = x.shape
    qkv = attention.qkv(block.norm1(x)).reshape(batch, count, 3, attention.num_heads, -1)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)
    weights = (query * attention.scale @ key.transpose(-2, -1)).float()
    if mask is None:
        weights = weights.softmax(-1)
    else:
        bias = torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask
        weights = (weights + bias).softmax(-1) * bias.isfinite().transpose(-2, -1)
    return {"keys": key.mean(1)[:, 1:], "received": weights.mean(1).sum(1)[:, 1:]}
