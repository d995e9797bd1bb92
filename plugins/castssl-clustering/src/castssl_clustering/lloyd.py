"""Alternate between joining the nearest center and moving the centers, a fixed number of times.

S. Lloyd, Least squares quantization in PCM, 1982 (means); H.-S. Park and C.-H. Jun, A simple and fast
algorithm for K-medoids clustering, 2009 (medoids).  A center without points stays where it is.  Nothing
here has a gradient or leaves the device.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from castssl.pooling.arithmetic import gather, one_hot, squared_distances
from castssl.pooling.centroids import farthest, random
from castssl_clustering.points import centered, mean_rows, nearest_pick

Start = Literal["farthest", "random"]
"""The first centers: farthest point sampling, or tokens by chance (torch's global generator)."""


def begin(where: Tensor, valid: Tensor, size: int, start: Start) -> Tensor:
    """Token indices of the first centers, int64 (B, K)."""
    return farthest(where, valid, size) if start == "farthest" else random(where, valid, size)


@torch.no_grad()
def means(where: Tensor, valid: Tensor, index: Tensor, rounds: int, weight: Tensor | None = None) -> Tensor:
    """K-means: which center each token joins after ``rounds``, int64 (B, N).

    Args:
        where: float (B, N, d).
        valid: bool (B, N).
        index: the tokens that are the first centers, int64 (B, K).
        rounds: how often the centers move; 0 joins the tokens to the first centers.
        weight: of each token in the means, float (B, N); 1 by default.
    """
    present = valid.gather(1, index)
    weight = torch.ones_like(where[..., 0]) if weight is None else weight
    where = centered(where, valid)
    centers = gather(where, index)
    label = _nearest(where, centers, present)
    for _ in range(rounds):
        member = one_hot(label, index.shape[1], valid) * weight[..., None]
        joined = (member.sum(1) > 0)[..., None]
        centers = torch.where(joined, mean_rows(where, member), centers)
        label = _nearest(where, centers, present)
    return label


@torch.no_grad()
def medoids(
    distance: Tensor, valid: Tensor, index: Tensor, rounds: int, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """K-medoids: which medoid each token joins, int64 (B, N), and the medoids' token indices, int64 (B, K).

    A medoid is the member of its cluster with the least (weighted) sum of distances to all members.

    Args:
        distance: of all pairs, float (B, N, N).
        valid: bool (B, N).
        index: the first medoids, int64 (B, K).
        rounds: how often the medoids move.
        weight: of each token in the sums, float (B, N); 1 by default.
    """
    weight = torch.ones_like(distance[..., 0]) if weight is None else weight
    for _ in range(rounds):
        member = one_hot(nearest_pick(distance, valid, index), index.shape[1], valid)
        with torch.autocast(distance.device.type, enabled=False):
            cost = distance @ (member * weight[..., None]).to(distance.dtype)
        best = cost.masked_fill(member == 0, torch.inf).argmin(1)
        index = torch.where(member.sum(1) > 0, best, index)
    return nearest_pick(distance, valid, index), index


def _nearest(where: Tensor, centers: Tensor, present: Tensor) -> Tensor:
    return squared_distances(where, centers).masked_fill(~present[:, None], torch.inf).argmin(-1)
