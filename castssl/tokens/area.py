"""Segment means by area: each stem cell is shared out by the pixels that it covers."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_by_area(features: Tensor, segments: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """See :func:`castssl.tokens.segments.segment_mean`."""
    height, width = features.shape[-2:]
    share = cell_shares(segments, height, width, size)
    mass = share.sum(1)
    wide = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        total = share.transpose(1, 2).to(wide) @ features.flatten(2).transpose(1, 2).to(wide)
    tiny = torch.finfo(torch.float32).tiny
    return (total / mass.clamp(min=tiny).to(wide)[..., None]).to(features.dtype), mass


def cell_shares(segments: Tensor, height: int, width: int, size: int) -> Tensor:
    """Each cell's pixels by segment: float32 (B, height * width, N), rows sum to 1; 0 without labels."""
    batch, tall, wide = segments.shape
    rows = torch.arange(tall, device=segments.device) * height // tall
    cols = torch.arange(wide, device=segments.device) * width // wide
    cell = (rows[:, None] * width + cols).flatten()
    flat = segments.flatten(1).long()
    index = torch.where((flat >= 0) & (flat < size), cell * size + flat, height * width * size)
    ones = torch.ones_like(index, dtype=torch.float32)
    count = ones.new_zeros(batch, height * width * size + 1).scatter_add(1, index, ones)[:, :-1]
    count = count.reshape(batch, height * width, size)
    return count / count.sum(-1, keepdim=True).clamp(min=1)
