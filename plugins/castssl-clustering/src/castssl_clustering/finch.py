"""FINCH: clusters are what hangs together by first neighbors.

Sarfraz, Sharma and Stiefelhagen, Efficient Parameter-free Clustering Using First Neighbor Relations,
https://arxiv.org/abs/1902.11266, equation 1 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.contracts import Pooling
from castssl.pooling.arithmetic import check_size, one_hot, squared_distances
from castssl.types import Pooled, Tokens
from castssl_clustering.points import Space, check_option, mean_rows, needed, points

Likeness = Literal["cosine", "euclidean"]


class Finch(Pooling):
    """Hard clusters in a number of their own, at most K; the other columns are padding.

    Each token is linked to its first neighbor, and linked tokens are one cluster: the first partition.
    Where it has more than K clusters, their means are linked in the same way, and so on.  The first partition
    is taken as it is, however few its clusters are (of random tokens, a quarter).  In a later round only the
    closest links count, as many as bring the number down to K, unless ``whole``.

    Args:
        dim: token width D, unused: there is nothing to learn.
        likeness: who is the first neighbor: ``cosine`` or ``euclidean``.
        metric: what is compared: the tokens' ``features``, or the last attention's ``keys``.
        whole: use all links in later rounds too, however far below K that leads: the finest partition of the
            paper's hierarchy with at most K clusters.

    Raises:
        ValueError: if an option is not one of those named.
    """

    def __init__(
        self,
        dim: int,
        *,
        likeness: Likeness = "cosine",
        metric: Space = "features",
        whole: bool = False,
    ) -> None:
        super().__init__()
        check_option("likeness", likeness, get_args(Likeness))
        check_option("metric", metric, get_args(Space))
        self.likeness: Likeness = likeness
        self.metric = metric
        self.whole = whole
        self.needs = needed(metric)

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool into at most ``size`` means."""
        check_size(tokens, size)
        valid = tokens.mass > 0
        label = self.join(points(tokens, self.metric), valid, size)
        assign = one_hot(label, size, valid)
        return Pooled(mean_rows(tokens.x, assign), tokens.cls, assign)

    @torch.no_grad()
    def join(self, where: Tensor, valid: Tensor, size: int) -> Tensor:
        """The cluster of each point, int64 (B, N): float (B, N, d), bool (B, N)."""
        count = valid.shape[1]
        label = torch.arange(count, device=where.device).expand_as(valid)
        centers, present = where, valid
        for step, width in enumerate(widths(count, size)):
            links = torch.full_like(label[:, 0], count)
            if step:
                links = (present.sum(1) - size).clamp(min=0)
                if self.whole:
                    links = links.sign() * count
            place = link(alike(centers, self.likeness), present, links)
            label = place.gather(1, label)
            member = one_hot(label, width, valid)
            centers, present = mean_rows(where, member), member.sum(1) > 0
        return label


def widths(count: int, size: int) -> Iterator[int]:
    """How many clusters there are at most after each round: a round halves them, at least."""
    width = max(count // 2, 1)
    yield width
    while width > size:
        width = max(width // 2, size)
        yield width


def alike(where: Tensor, likeness: Likeness) -> Tensor:
    """How alike all pairs are, float (B, N, N); exactly symmetric, which :func:`link` relies on."""
    with torch.autocast(where.device.type, enabled=False):
        if likeness == "euclidean":
            middle = where.mean(1, keepdim=True)
            likenesses = -squared_distances(where - middle, where - middle)
        else:
            unit = F.normalize(where, dim=-1)
            likenesses = unit @ unit.transpose(1, 2)
        return likenesses + likenesses.transpose(1, 2)


@torch.no_grad()
def link(likenesses: Tensor, present: Tensor, links: Tensor) -> Tensor:
    """One round: the cluster of each point, numbered from 0 in order of their roots: int64 (B, N).

    As likeness is symmetric and ties go to the lowest index, the walk from neighbor to neighbor ends in a
    pair that are each other's first neighbors.  With the first of the pair as root this is a forest, so n
    links leave n clusters fewer.

    Args:
        likenesses: float (B, N, N), symmetric.
        present: bool (B, N).
        links: how many links count, the closest first; int64 (B,).
    """
    count = present.shape[1]
    index = torch.arange(count, device=present.device)
    same = torch.eye(count, dtype=torch.bool, device=present.device)
    others = likenesses.masked_fill(same | ~present[:, None] | ~present[..., None], -torch.inf)
    closeness, parent = others.max(-1)
    parent = torch.where(closeness.isinf(), index, parent)
    root = (parent.gather(1, parent) == index) & (index <= parent)
    order = closeness.masked_fill(root, -torch.inf).argsort(dim=1, descending=True, stable=True)
    counts = (order.argsort(1) < links[:, None]) & ~root
    parent = torch.where(counts, parent, index)
    for _ in range((count - 1).bit_length()):
        parent = parent.gather(1, parent)
    roots = (parent == index) & present
    number = roots.cumsum(1) - 1
    return number.gather(1, parent).clamp(min=0)
