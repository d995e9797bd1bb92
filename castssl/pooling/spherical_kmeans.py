"""Spherical K-means: tokens in groups by the direction of their features, for all images of a batch at once.

Dhillon and Modha 2001 (https://doi.org/10.1023/A:1007612920971), begun as k-means++ does (Arthur and
Vassilvitskii 2007), with 1 - cosine as the distance.  CAST, https://arxiv.org/abs/2210.00314, segments the
tokens of a ViT by it for segment retrieval.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.pooling.arithmetic import gather, one_hot


class Clusters(NamedTuple):
    """The groups of each image; a group without tokens is empty, and its center is 0."""

    group: Tensor
    """int64 (B, N), the group of each token; -1 for a token that is not valid."""
    centers: Tensor
    """float32 or better (B, K, D), the direction of the weighted sum of the unit vectors of each group."""
    mass: Tensor
    """Likewise (B, K), the sum of the weights of each group."""


@torch.no_grad()
def spherical_kmeans(
    x: Tensor, valid: Tensor, k: int, *, weight: Tensor | None = None, iterations: int = 20, seed: int = 0
) -> Clusters:
    """Group the valid tokens of each image.

    The result for an image depends on its valid tokens in their order, on ``k`` and on ``seed``: not on the
    other images, not on padding, and not on torch's global generator.  Shapes are static, and nothing waits
    for a device.  In an iteration a group that has lost all its tokens keeps its center.  An image with fewer
    directions than ``k`` has empty groups.

    Args:
        x: float (B, N, D); the length of a row has no meaning.
        valid: bool (B, N).
        k: groups K of each image, at least 1.
        weight: float (B, N) from 0, how much each token counts, such as its pixels; None for 1.
        iterations: assignments and means after the first centers.
        seed: of the first centers.

    Raises:
        ValueError: if shapes disagree, or ``k`` or ``iterations`` is out of range.
    """
    if x.ndim != 3 or valid.shape != x.shape[:2] or (weight is not None and weight.shape != valid.shape):
        other = None if weight is None else tuple(weight.shape)
        raise ValueError(
            f"spherical_kmeans: expected x (B, N, D), valid (B, N) and weight (B, N), got {tuple(x.shape)},"
            f" {tuple(valid.shape)} and {other}"
        )
    if k < 1 or iterations < 0 or not x.shape[1]:
        raise ValueError(
            f"spherical_kmeans: expected k of 1 or more, iterations of 0 or more and tokens, got {k},"
            f" {iterations} and {x.shape[1]}"
        )
    with torch.autocast(x.device.type, enabled=False):
        unit = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
        weight = valid.to(unit.dtype) if weight is None else weight.to(unit.dtype) * valid
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(k, generator=generator, dtype=torch.float64, device="cpu")
        centers, present = _first_centers(unit, weight, draws.to(x.device, non_blocking=True))
        for _ in range(iterations):
            centers = _means(unit, _nearest(unit, centers, present), weight, centers)[0]
        index = _nearest(unit, centers, present)
        centers, mass = _means(unit, index, weight, torch.zeros_like(centers))
        return Clusters(index.masked_fill(~valid, -1), centers, mass)


def _first_centers(unit: Tensor, weight: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens drawn in proportion to weight and distance to the nearest one drawn before.

    Returns:
        (B, K, D), and bool (B, K), False where all tokens are at a distance of 0.
    """
    apart = torch.full_like(weight, 2.0)
    centers, present = [], []
    for draw in draws:
        shares = (weight * apart).double().cumsum(1)
        total = shares[:, -1:]
        # A product that rounds to the total must not point behind the last token with a weight.
        last = (shares < total).sum(1, keepdim=True)
        drawn = torch.searchsorted(shares, draw * total, right=True).minimum(last)
        centers.append(gather(unit, drawn))
        present.append(total > 0)
        apart = apart.minimum(1 - (unit @ centers[-1].transpose(1, 2)).squeeze(2))
        # Rounding must not make a center of a token that is one already.
        apart = apart.masked_fill(apart < 8 * torch.finfo(apart.dtype).eps, 0.0)
    return torch.cat(centers, 1), torch.cat(present, 1)


def _nearest(unit: Tensor, centers: Tensor, present: Tensor) -> Tensor:
    """The center with the largest cosine; the first of equal ones: int64 (B, N)."""
    cosines = unit @ centers.transpose(1, 2)
    return cosines.masked_fill(~present[:, None], -torch.inf).argmax(2)


def _means(unit: Tensor, index: Tensor, weight: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Centers (B, K, D), those of ``before`` where the sum is 0; and the weights of each group (B, K)."""
    members = one_hot(index, before.shape[1], weight > 0).to(unit.dtype) * weight[..., None]
    sums, mass = members.transpose(1, 2) @ unit, members.sum(1)
    length = sums.norm(dim=-1, keepdim=True)
    return torch.where(length > 0, sums / length.clamp(min=torch.finfo(unit.dtype).tiny), before), mass
