"""What differs between processes: gathering rows, the first row, the main rank.

Everything is the identity when torch.distributed is not initialised.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def world() -> int:
    """How many processes take part."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The index of this process, from 0."""
    return distributed.get_rank() if world() > 1 else 0


def is_main() -> bool:
    """True on the process that writes files and prints."""
    return rank() == 0


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks in rank order, without gradient: (B, ...) -> (world * B, ...)."""
    if world() == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(world())]
    distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def first_row(rows: Tensor) -> int:
    """Where this rank's rows begin within :func:`gather`'s result."""
    return rank() * rows.shape[0]


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, without gradient."""
    if world() == 1:
        return value.detach()
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / world()
