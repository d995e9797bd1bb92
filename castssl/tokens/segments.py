"""Segment means: a grid of features and a label map become one token a segment.

CAST, section 3.1 and Algorithm 2.  The released classification code samples the labels at the stem grid
(``"nearest"``), so a superpixel that meets no sample point gets no token.  ``"area"`` shares each stem cell
out by the pixels that it covers, and loses none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from castssl.encoder_config import Membership
from castssl.tokens.area import mean_by_area


def sample_labels(segments: Tensor, height: int, width: int) -> Tensor:
    """Labels at the top left pixel of each cell: int (B, H, W) -> (B, height, width).

    The same pixels as ``interpolate(mode="nearest")``, which has no integer kernel.
    """
    rows = torch.arange(height, device=segments.device) * segments.shape[-2] // height
    cols = torch.arange(width, device=segments.device) * segments.shape[-1] // width
    return segments[:, rows][:, :, cols]


def segment_mean(
    features: Tensor, segments: Tensor, size: int, membership: Membership = "nearest"
) -> tuple[Tensor, Tensor]:
    """The mean feature of each segment, and how many stem cells it covers.

    Args:
        features: float (B, D, h, w).
        segments: int (B, H, W), labels in [0, size); a pixel with another label joins no segment.
        size: number of tokens N.
        membership: how a cell belongs to a segment, see the module's docstring.

    Returns:
        means (B, N, D) in the features' dtype, and mass float32 (B, N); a segment without cells has
        mean 0 and mass 0.  Sums are kept in float32 (or better): half precision would lose large segments.
    """
    if membership == "nearest":
        return _by_samples(features, sample_labels(segments, *features.shape[-2:]), size)
    return mean_by_area(features, segments, size)


def _by_samples(features: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    batch, dim = features.shape[:2]
    wide = torch.promote_types(features.dtype, torch.float32)
    rows = features.flatten(2).transpose(1, 2).reshape(-1, dim).to(wide)
    # One flat index for the whole batch: a single scatter, whatever the batch size.
    offset = torch.arange(batch, device=labels.device)[:, None] * size
    flat = labels.flatten(1).long()
    # The last row takes labels out of range: without it they would join tokens of the next image.
    index = torch.where((flat >= 0) & (flat < size), flat + offset, batch * size).flatten()
    total = rows.new_zeros(batch * size + 1, dim).index_add(0, index, rows)[:-1]
    ones = torch.ones_like(index, dtype=torch.float32)
    mass = ones.new_zeros(batch * size + 1).index_add(0, index, ones)[:-1]
    means = total / mass.clamp(min=1).to(wide)[:, None]
    return means.view(batch, size, dim).to(features.dtype), mass.view(batch, size)
