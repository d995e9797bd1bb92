"""Segment means of a grid that is resized to the label map, without resizing it.

A pixel of a resized grid is a weighted sum of few cells, 4 (bilinear) or 16 (bicubic), and a mean over pixels
is one of cells: the weights of all pixels are summed into a matrix (N x cells), and one product gives the
means.  Features at each pixel, which the published code computes, are never in memory.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from castssl.superpixel_labels import is_tracing

Mode = Literal["bilinear", "bicubic"]
_CUBIC = -0.75
"""The free coefficient of the bicubic kernel, as in ``torch.nn.functional.interpolate``."""


def resized_mean(features: Tensor, segments: Tensor, size: int, mode: Mode) -> tuple[Tensor, Tensor]:
    """The mean of each segment over features that are resized to the label map (``align_corners=False``).

    Args:
        features: float (B, D, h, w), or (1, D, h, w) for features that all images share.
        segments: int (B, H, W), labels in [0, size); a pixel with another label joins no segment.
        size: number of tokens N.
        mode: the interpolation.

    Returns:
        means (B, N, D) in the features' dtype, and float32 (B, N) how many pixels each segment has; one
        without pixels has mean 0.  Sums are kept in float32 or better.
    """
    batch, dim = segments.shape[0], features.shape[1]
    wide = torch.promote_types(features.dtype, torch.float32)
    flat = segments.long()
    offset = torch.arange(batch, device=flat.device)[:, None, None] * size
    # The last row takes labels out of range.
    owner = torch.where((flat >= 0) & (flat < size), flat + offset, batch * size)
    ones = torch.ones(owner.numel(), dtype=torch.float32, device=owner.device)
    pixels = ones.new_zeros(batch * size + 1).scatter_add(0, owner.flatten(), ones)[:-1].view(batch, size)
    with torch.autocast(features.device.type, enabled=False), torch.no_grad():
        weights = _weights(owner, batch * size, features.shape[-2:], mode, wide)
    rows = features.flatten(2).transpose(1, 2).to(wide)
    with torch.autocast(features.device.type, enabled=False):
        total = _product(weights, rows, batch).view(batch, size, dim)
        means = total / pixels.clamp(min=1).to(wide)[..., None]
    return means.to(features.dtype), pixels


def _weights(owner: Tensor, count: int, grid: tuple[int, ...], mode: Mode, dtype: torch.dtype) -> Tensor:
    """How much of each cell the segments sum up: (count, h * w) for the row int64 (B, H, W) of each pixel."""
    height, width = grid
    rows, row_weights = taps(height, owner.shape[-2], mode, owner.device)
    cols, col_weights = taps(width, owner.shape[-1], mode, owner.device)
    base = owner * (height * width)
    total = torch.zeros((count + 1) * height * width, dtype=dtype, device=owner.device)
    for row, row_weight in zip(rows, row_weights, strict=True):
        for col, col_weight in zip(cols, col_weights, strict=True):
            index = base + (row[:, None] * width + col)
            weight = (row_weight[:, None] * col_weight).to(dtype).expand_as(index)
            total.scatter_add_(0, index.flatten(), weight.flatten())
    return total.view(count + 1, height * width)[:-1]


def taps(source: int, target: int, mode: Mode, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of ``source`` cells each of ``target`` positions is a weighted sum of, along one axis.

    Returns:
        cells int64 and weights float64, both (taps, target); the weights of a position sum to 1.
    """
    at = (torch.arange(target, dtype=torch.float64, device=device) + 0.5) * (source / target) - 0.5
    if mode == "bilinear":
        at = at.clamp(min=0)
    low = at.floor()
    offsets = torch.arange(2, device=device) if mode == "bilinear" else torch.arange(-1, 3, device=device)
    distance = (at - low - offsets[:, None]).abs()
    if mode == "bilinear":
        weights = 1 - distance
    else:
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance.square() + 1
        far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
        weights = torch.where(distance <= 1, near, far)
    return (low.long() + offsets[:, None]).clamp(0, source - 1), weights


def _product(weights: Tensor, rows: Tensor, batch: int) -> Tensor:
    """(B * N, cells) times (B, cells, D) or (1, cells, D), image by image: (B * N, D)."""
    images, cells, dim = rows.shape
    # A segment has weights in few cells.  On a processor the sparse product takes half the time, and what it
    # keeps for the backward pass is small; a device would be waited for to count the weights.
    plain = type(weights) is Tensor and not (torch.compiler.is_compiling() or is_tracing())
    if not plain or weights.device.type != "cpu":
        return (weights.view(images, -1, cells) @ rows).flatten(0, 1)
    row, cell = weights.nonzero().unbind(1)
    place = torch.stack([row, cell if images == 1 else row // (len(weights) // batch) * cells + cell])
    sparse = torch.sparse_coo_tensor(
        place, weights[row, cell], (len(weights), images * cells), is_coalesced=True, check_invariants=False
    )
    product: Tensor = torch.sparse.mm(sparse, rows.reshape(-1, dim))
    return product
