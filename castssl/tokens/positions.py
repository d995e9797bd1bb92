"""Position tables over the stem grid: fixed sin-cos or learned, resized to any grid.

MoCo v3, https://arxiv.org/abs/2104.02057, section 4.3 (fixed 2-D sin-cos); DeiT (learned).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sin_cos(dim: int, height: int, width: int) -> Tensor:
    """Fixed table: float32 (1, D, height, width).

    Channels in quarters: sin(row w), cos(row w), sin(col w), cos(col w), with w_j = 10000^(-4j / D).

    Raises:
        ValueError: if ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sin-cos table needs dim a multiple of 4, got {dim}")
    quarter = dim // 4
    omega = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float32) / quarter)
    row = (torch.arange(height, dtype=torch.float32)[:, None] * omega)[:, None].expand(-1, width, -1)
    col = (torch.arange(width, dtype=torch.float32)[:, None] * omega)[None].expand(height, -1, -1)
    table = torch.cat([row.sin(), row.cos(), col.sin(), col.cos()], dim=-1)
    return table.permute(2, 0, 1)[None].contiguous()


def resize(table: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resize of a table (1, D, h, w) to (1, D, height, width); itself if the grid agrees."""
    if table.shape[-2:] == (height, width):
        return table
    return F.interpolate(table.float(), (height, width), mode="bicubic", align_corners=False).to(table.dtype)
