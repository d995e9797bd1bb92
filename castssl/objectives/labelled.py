"""What objectives that learn classes ask of the data set and of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from castssl.errors import ConfigError
from castssl.types import Batch, LabelTree


def classes_of(labels: LabelTree, level: int) -> int:
    """How many classes a label level has.

    Raises:
        ConfigError: if there is no such level, or an image may carry many labels.
    """
    if not labels.levels or not labels.exclusive:
        found = "no labels" if not labels.levels else "several labels an image"
        raise ConfigError(
            f"the data set has {found}; expected one class for each image, such as a folder each"
        )
    if not -labels.levels <= level < labels.levels:
        raise ConfigError(f"level: got {level}, but the data set has {labels.levels} label levels, from 0")
    return labels.sizes[level]


def check_labelled(batch: Batch, levels: int) -> Tensor:
    """The target of a batch with one view: a label path int64 (B, L).

    Raises:
        ValueError: unless it is that, with both numbers.
    """
    if len(batch.views) != 1:
        raise ValueError(f"expected 1 view of each image, got {len(batch.views)}")
    path = batch.target
    if path.dtype != torch.int64 or path.shape[1:] != (levels,):
        wide = tuple(path.shape)
        raise ValueError(f"expected a label path int64 (B, {levels}), got {path.dtype} of shape {wide}")
    return path
