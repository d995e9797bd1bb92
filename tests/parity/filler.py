"""Deterministic weights, images and label maps: no file needed to compare with the released code's results.

A hash of the element's index and of the tensor's published name gives every weight a fixed value.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def uniform(count: int, seed: int) -> NDArray[np.float64]:
    """``count`` values in [0, 1)."""
    a = (np.arange(count, dtype=np.uint64) + np.uint64(1000003 * seed)) & np.uint64(0xFFFFFFFF)
    for _ in range(2):
        a ^= a >> np.uint64(16)
        a = (a * np.uint64(0x45D9F3B)) & np.uint64(0xFFFFFFFF)
    a ^= a >> np.uint64(16)
    return np.asarray(a / 2.0**32, dtype=np.float64)


def fill(name: str, tensor: Tensor) -> Tensor:
    """The filler of a tensor of this published name, in the tensor's dtype."""
    if name.endswith("num_batches_tracked") or name == "pe_token":
        return tensor
    seed = sum(i * ord(c) for i, c in enumerate(name, start=1)) % 99991
    u = torch.from_numpy(uniform(tensor.numel(), seed)).view(tensor.shape)
    v = 2 * u - 1
    if name.endswith("running_var"):
        value = 1 + 0.2 * u
    elif name.endswith("running_mean"):
        value = 0.1 * v
    elif name in {"cls_token", "pos_embed"}:
        value = 0.5 * v
    elif tensor.ndim > 1:
        value = v * math.sqrt(3 / tensor[0].numel())
    elif name.endswith("weight"):
        value = 1 + 0.1 * v
    else:
        value = 0.1 * v
    return value.to(tensor.dtype)


def image(batch: int, side: int) -> Tensor:
    """Normalised images, float64 (B, 3, side, side)."""
    u = torch.from_numpy(uniform(batch * 3 * side * side, 7))
    return (1.5 * (2 * u - 1)).view(batch, 3, side, side)


def grid(side: int, cell: int) -> Tensor:
    """Square labels, int64 (side, side)."""
    n = -(-side // cell)
    at = torch.arange(side) // cell
    return at[:, None] * n + at
