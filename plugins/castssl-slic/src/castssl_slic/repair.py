"""Makes each label of a partition one connected region, in a fixed number of steps.

The original SLIC walks through connected components, which takes a loop over pixels.  Here each label keeps
what hangs together with the pixel nearest to its centroid, and other pixels join regions from their borders.
A region only ever grows by pixels that touch it, so it stays connected; the last two steps, along whole rows
and then whole columns, leave no pixel over.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDS = 4
"""Rounds in which pixels join by color; what is deeper inside joins the nearest in its row or column."""


def repair(labels: Tensor, colors: Tensor, *, count: int, smallest: float, sweeps: int) -> Tensor:
    """The partition with each label 4-connected.

    Args:
        labels: int64 (B, H, W), 0 to ``count`` - 1.
        colors: float (B, C, H, W); of the regions around it, a pixel joins the one of the likest neighbor.
        count: how many labels there may be.
        smallest: a region of fewer pixels is given to its neighbors, unless all of the image are.
        sweeps: how often what hangs together is followed along rows and columns.

    Returns:
        int64 (B, H, W), of the same labels; some may be gone.
    """
    settled = anchors(labels, count)
    across, down = runs(labels, -1), runs(labels, -2)
    for _ in range(sweeps):
        settled = spread(spread(settled, across, -1), down, -2)
    settled = settled & _large(labels, settled, count, smallest).gather(1, labels.flatten(1)).view_as(settled)
    labels, settled = join(labels, settled, colors)
    for dim in (-1, -2):
        labels, settled = fill(labels, settled, dim)
    return labels


def anchors(labels: Tensor, count: int) -> Tensor:
    """Of each label the pixel nearest to its centroid, the first of several: True there, bool (B, H, W)."""
    batch, height, width = labels.shape
    slots = labels.flatten(1)
    index = torch.arange(height * width, device=labels.device)
    y, x = index // width, index % width
    none = torch.zeros(batch, count, dtype=torch.int64, device=labels.device)
    mass = none.scatter_add(1, slots, torch.ones_like(slots)).clamp(min=1)
    at_y, at_x = (none.scatter_add(1, slots, place.expand(batch, -1)).float() / mass for place in (y, x))
    away = (y - at_y.gather(1, slots)).square() + (x - at_x.gather(1, slots)).square()
    # Distance and index as one number: the least is one pixel, and the same one on every device.
    key = (away * 16).long() * (height * width) + index
    least = torch.full_like(none, torch.iinfo(torch.int64).max).scatter_reduce(1, slots, key, "amin")
    return (least.gather(1, slots) == key).view(labels.shape)


def runs(labels: Tensor, dim: int) -> Tensor:
    """The number of each pixel's run of equal labels along an axis, from 0: int64 (B, H, W)."""
    change = (labels.diff(dim=dim) != 0).long()
    return F.pad(change, (1, 0) if dim == -1 else (0, 0, 1, 0)).cumsum(dim)


def spread(settled: Tensor, runs: Tensor, dim: int) -> Tensor:
    """All of each run that has a settled pixel: bool (B, H, W)."""
    return torch.zeros_like(runs).scatter_add(dim, runs, settled.long()).gather(dim, runs) > 0


def join(labels: Tensor, settled: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and what is settled, after pixels beside settled ones took the label of the likest of those."""
    # Channel by channel, since all neighbors of all channels at once are twelve images in memory.
    contrast = sum(((_beside(one) - one[:, None]).abs() for one in colors.unbind(1)), colors.new_zeros(()))
    for _ in range(ROUNDS):
        least, which = contrast.masked_fill(~_beside(settled), torch.inf).min(1)
        joining = ~settled & (least < torch.inf)
        labels = torch.where(joining, _beside(labels).gather(1, which[:, None])[:, 0], labels)
        settled = settled | joining
    return labels, settled


def fill(labels: Tensor, settled: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Labels and what is settled, after pixels took the label of the nearest settled one along an axis."""
    size = labels.shape[dim]
    place = torch.arange(size, device=labels.device).view(-1, *[1] * (-1 - dim))
    before = torch.where(settled, place, -2 * size).cummax(dim).values
    after = torch.where(settled, place, 3 * size).flip(dim).cummin(dim).values.flip(dim)
    source = torch.where(place - before <= after - place, before, after)
    reached = (source >= 0) & (source < size)
    taken = labels.gather(dim, source.clamp(0, size - 1))
    return torch.where(reached, taken, labels), reached


def _large(labels: Tensor, settled: Tensor, count: int, smallest: float) -> Tensor:
    """Whether each label has ``smallest`` settled pixels, or as many as any: bool (B, count)."""
    none = torch.zeros(len(labels), count, dtype=torch.int64, device=labels.device)
    mass = none.scatter_add(1, labels.flatten(1), settled.flatten(1).long())
    return mass >= mass.amax(1, keepdim=True).clamp(max=int(smallest))


def _beside(values: Tensor) -> Tensor:
    """The values above, below, left and right of each pixel, 0 outside: (..., H, W) -> (..., 4, H, W)."""
    framed = F.pad(values, (1, 1, 1, 1))
    middle = framed[..., 1:-1, :], framed[..., 1:-1]
    return torch.stack(
        (middle[1][..., :-2, :], middle[1][..., 2:, :], middle[0][..., :-2], middle[0][..., 2:]), -3
    )
