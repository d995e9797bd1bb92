"""Rows of all processes, through which a gradient flows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from castssl import distributed


def gather_with_gradient(rows: Tensor) -> Tensor:
    """The rows of all ranks in rank order: (B, ...) -> (world * B, ...).

    The gradient of a row is the sum of those of all ranks' losses, so the mean of the ranks' gradients
    is that of the mean of their losses.  All ranks must have equally many rows.
    """
    return torch.cat(all_gather(rows.contiguous())) if distributed.world() > 1 else rows
