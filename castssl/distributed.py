"""What differs between processes: gathering rows, the first row, the main rank.

Everything is the identity when torch.distributed is not initialized.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

_seen = {1}
"""The numbers of processes that :func:`world` has found; a group may be gone when the program ends."""


def world() -> int:
    """How many processes take part."""
    count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    _seen.add(count)
    return count


def was_several() -> bool:
    """True if several processes take part, or did so earlier."""
    world()
    return max(_seen) > 1


def rank() -> int:
    """The index of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def is_main() -> bool:
    """True on the process that writes files and prints."""
    return rank() == 0


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks in rank order, without gradient: (B, ...) -> (world * B, ...)."""
    if world() == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(world())]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def first_row(rows: Tensor) -> int:
    """Where this rank's rows begin within :func:`gather`'s result."""
    return rank() * rows.shape[0]


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, without gradient."""
    if world() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world()
