"""Rows of all processes, through which a gradient flows."""

from __future__ import annotations

import torch
from torch import Tensor

from castssl import distributed


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, rows: Tensor) -> Tensor:
        """The rows of all ranks."""
        return distributed.gather(rows)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        """What the losses of all ranks say of the rows of this one."""
        total = distributed.mean(gradients[0]) * distributed.world()
        count = len(total) // distributed.world()
        return total[distributed.rank() * count :][:count]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """The rows of all ranks in rank order: (B, ...) -> (world * B, ...).

    The gradient of a row is the sum of those of all ranks' losses, so the mean of the ranks' gradients
    is that of the mean of their losses.  All ranks must have equally many rows.
    """
    gathered: Tensor = _Gather.apply(rows)
    return gathered
