"""The nouns that cross borders between rooms.

Shape letters: B images, N tokens, K pooled tokens, D channels, H x W pixels, L label levels, C classes.
Named tuples, because collation, Accelerate, DDP and device transfer carry them through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from castssl.errors import DataError


class View(NamedTuple):
    """One augmented look at each image of a batch.

    Before ``finish`` (a *raw* view) ``image`` is uint8 RGB, and ``segments`` is (B, 0, 0) when the
    superpixels run on the device.
    """

    image: Tensor
    """float32 (B, 3, H, W), normalised RGB."""
    segments: Tensor
    """int32 (B, H, W), values in [0, capacity)."""


RawView = View
"""A :class:`View` before ``castssl.data.finish``: uint8 image, segments maybe (B, 0, 0)."""


class Batch(NamedTuple):
    """What a loader yields and an objective consumes."""

    views: Sequence[View]
    target: Tensor
    """Label path int64 (B, L), coarse to fine, L = 0 if unlabelled; or multi-hot float32 (B, C)."""


class Tokens(NamedTuple):
    """The tokens of one stage; a row with mass 0 is padding."""

    x: Tensor
    """float (B, N, D)."""
    cls: Tensor
    """float (B, 1, D)."""
    mass: Tensor
    """float32 (B, N), stem cells behind each token."""
    keys: Tensor | None = None
    """float (B, N, d), the last attention's keys, mean over heads."""
    received: Tensor | None = None
    """float32 (B, N), attention each token received: mean over heads, sum over queries."""


class Pooled(NamedTuple):
    """What a pooling returns."""

    x: Tensor
    """float (B, K, D)."""
    cls: Tensor
    """float (B, 1, D)."""
    assign: Tensor
    """float32 (B, N, K); a valid row sums to 1, a padded row is all 0."""


class Hierarchy(NamedTuple):
    """All stages of one forward pass, and how each token was handed to the next stage."""

    segments: Tensor
    """int32 (B, H, W)."""
    stages: tuple[Tokens, ...]
    """Fine to coarse."""
    assigns: tuple[Tensor, ...]
    """One fewer than ``stages``."""

    def parents(self, stage: int) -> Tensor:
        """The token of ``stage`` that each finest token ended up in: int64 (B, N), hard (argmax) chain."""
        at = torch.arange(self.stages[0].x.shape[1], device=self.segments.device)
        at = at.expand(self.stages[0].x.shape[0], -1)
        for assign in self.assigns[: stage % len(self.stages)]:
            at = assign.argmax(-1).gather(1, at)
        return at

    def labels(self, stage: int) -> Tensor:
        """The segmentation at ``stage``: int64 (B, H, W); -1 where a pixel's segment has no token."""
        at = self.parents(stage).masked_fill(self.stages[0].mass <= 0, -1)
        flat = self.segments.flatten(1).long()
        return at.gather(1, flat).view(self.segments.shape)


class Outcome(NamedTuple):
    """What an objective returns."""

    loss: Tensor
    """float32 scalar with gradient, mean over this rank's batch."""
    logs: Mapping[str, Tensor]
    """Detached float scalars."""


@dataclass(frozen=True)
class LabelTree:
    """The label levels of a data set, coarse to fine.

    Args:
        sizes: classes per level; ``()`` means unlabelled.
        parents: for each level but the coarsest, the parent (index in the level above) of each class.
        names: class names per level, or ``()`` if unnamed.
        exclusive: False if an image may carry many labels at once.

    Raises:
        DataError: if lengths disagree, a parent is out of range, or a coarse class has no child.
    """

    sizes: tuple[int, ...] = ()
    parents: tuple[tuple[int, ...], ...] = ()
    names: tuple[tuple[str, ...], ...] = ()
    exclusive: bool = True

    def __post_init__(self) -> None:
        if self.exclusive and len(self.parents) != max(len(self.sizes) - 1, 0):
            raise DataError(
                f"a label tree of {len(self.sizes)} levels needs {max(len(self.sizes) - 1, 0)} parent"
                f" tables, got {len(self.parents)}; give one table for each level but the coarsest"
            )
        for level, table in enumerate(self.parents, start=1):
            self._check(level, table)
        if self.names and tuple(map(len, self.names)) != self.sizes:
            raise DataError(f"got {tuple(map(len, self.names))} class names for levels of {self.sizes}")

    def _check(self, level: int, table: tuple[int, ...]) -> None:
        if len(table) != self.sizes[level]:
            raise DataError(f"level {level} has {self.sizes[level]} classes but {len(table)} parents")
        missing = set(range(self.sizes[level - 1])) - set(table)
        strange = set(table) - set(range(self.sizes[level - 1]))
        if strange or missing:
            raise DataError(
                f"level {level}: parents out of range {sorted(strange)[:5]}, classes of level {level - 1}"
                f" without a child {sorted(missing)[:5]}; expected each of 0..{self.sizes[level - 1] - 1}"
            )

    @property
    def levels(self) -> int:
        """How many levels there are; 0 if unlabelled."""
        return len(self.sizes)

    @classmethod
    def none(cls) -> LabelTree:
        """The tree of an unlabelled data set."""
        return cls()

    @classmethod
    def flat(cls, names: Sequence[str]) -> LabelTree:
        """A tree of one level."""
        return cls(sizes=(len(names),), names=(tuple(names),))
