"""Probabilities on a label tree: what the children of a class have together."""

from __future__ import annotations

import torch
from torch import Tensor


def over_children(values: Tensor, parent: Tensor, count: int) -> Tensor:
    """The logsumexp over the children of each class of the level above; every class has one.

    Args:
        values: float (B, C), logarithms, of a level.
        parent: int64 (C,), the class of the level above.
        count: how many classes that level has.

    Returns:
        Float (B, count).
    """
    index = parent.expand_as(values)
    top = values.new_full((len(values), count), -torch.inf)
    top = top.scatter_reduce(1, index, values.detach(), "amax")
    shares = (values - top[:, parent]).exp()
    return torch.zeros_like(top).index_add(1, parent, shares).log() + top
