"""How good label paths are: each level, the whole path, and agreement with the tree.

Accuracies, full-path accuracy (FPA), tree inconsistency (TICE) and weighted average precision (wAP) are those
of H-CAST (Visually Consistent Hierarchical Image Classification, https://arxiv.org/abs/2406.11608).

All are sums of whole numbers, so any number of processes gives the very same result.  Nothing in ``update``
waits for the device.  A share is in [0, 1]; without any image it is not a number.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from castssl.errors import ConfigError
from castssl.labels import LabelTree


class PathMetric(Metric):
    """The ratio of two sums over label paths; a subclass defines what a batch adds to them.

    A label -1 is unknown.  A prediction that is not a class of its level (such as -1, "not sure") is wrong
    and on no path.

    Attributes:
        states: the names of both sums.

    Args:
        tree: the label tree.
        options: of :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: if the tree has no levels, or an image may carry many labels at once.
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = True
    # torchmetrics takes metrics of equal names and values of states for the same one.
    states: ClassVar[tuple[str, str]]
    paths: Tensor

    def __init__(self, tree: LabelTree, **options: Any) -> None:
        super().__init__(**options)
        if not tree.levels or not tree.exclusive:
            raise ConfigError(
                f"{type(self).__name__} needs one path an image, got a tree of {tree.levels} levels"
                f" with exclusive={tree.exclusive}; give a tree of levels whose classes exclude each other"
            )
        self.sizes = tree.sizes
        self.register_buffer("paths", tree.paths(), persistent=False)
        for name, shape in zip(self.states, self.shapes(), strict=True):
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of both sums."""
        return (), ()

    def terms(self, predicted: Tensor, target: Tensor, labeled: Tensor) -> tuple[Tensor, Tensor]:
        """What a batch adds to both sums.

        Args:
            predicted: int64 (B, L), coarse to fine.
            target: int64 (B, L); -1 is unknown.
            labeled: bool (B, L), True where a label of a real row is known.
        """
        raise NotImplementedError

    def update(self, predicted: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            predicted: int64 (B, L), coarse to fine.
            target: int64 (B, L); -1 is unknown.
            valid: bool (B,), False for rows that only fill the batch.

        Raises:
            ValueError: if shapes or dtypes are others.
        """
        self.check("predicted", predicted)
        labeled = self.labeled(predicted, target, valid)
        self.add(*self.terms(predicted.long(), target.long(), labeled))  # uint8 would index as a mask.

    def add(self, *terms: Tensor) -> None:
        """Add a batch's terms to both sums."""
        for name, term in zip(self.states, terms, strict=True):
            setattr(self, name, getattr(self, name) + term)

    def compute(self) -> Tensor:
        """The ratio: float32."""
        above, below = (getattr(self, name) for name in self.states)
        ratio: Tensor = above / below
        return ratio

    def check(self, name: str, paths: Tensor) -> None:
        """Refuse class numbers that are not int (B, L)."""
        if paths.dim() != 2 or paths.shape[1] != len(self.sizes) or paths.is_floating_point():
            raise ValueError(
                f"{type(self).__name__}: {name} must be whole numbers (B, {len(self.sizes)}), coarse to fine,"
                f" got {paths.dtype} {tuple(paths.shape)}"
            )

    def labeled(self, predicted: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        """Which labels of which real rows are known: bool (B, L)."""
        self.check("target", target)
        rows = len(target)
        if len(predicted) != rows or (
            valid is not None and (valid.shape != (rows,) or valid.dtype != torch.bool)
        ):
            raise ValueError(
                f"{type(self).__name__}: expected predictions and a bool mask of real rows for {rows} targets"
                f", got {len(predicted)} and {None if valid is None else (valid.dtype, tuple(valid.shape))}"
            )
        labeled = target >= 0
        return labeled if valid is None else labeled & valid.unsqueeze(1)


class LevelAccuracy(PathMetric):
    """The share of images whose class is right, at each level: float32 (L,), coarse to fine.

    Each level counts the images whose label is known there.  With one level it is a scalar, as torchmetrics
    has it.
    """

    states = ("right", "total")

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A number for each level."""
        return (len(self.sizes),), (len(self.sizes),)

    def terms(self, predicted: Tensor, target: Tensor, labeled: Tensor) -> tuple[Tensor, Tensor]:
        """Right and known labels of each level."""
        return ((predicted == target) & labeled).sum(0), labeled.sum(0)


class WeightedAveragePrecision(LevelAccuracy):
    """The mean of the levels' accuracies, weighted by their numbers of classes (wAP): a float32 scalar.

    The sum over levels l of C_l Acc_l, divided by the sum of C_l.  H-CAST's code does not compute it; this
    formula gives 29 of the poster's 36 values, see ``recipes/hierarchy.md``.  Each level's accuracy is over
    the images whose label is known there.
    """

    def compute(self) -> Tensor:
        """float32 scalar; not a number if a level has no image."""
        accuracy = super().compute()
        weight = torch.tensor(self.sizes, device=accuracy.device) / sum(self.sizes)
        return (weight * accuracy).sum()


class FullPathAccuracy(PathMetric):
    """The share of images that are right at every level (FPA): a float32 scalar.

    Counts the images whose whole path is known.
    """

    states = ("right", "total")

    def terms(self, predicted: Tensor, target: Tensor, labeled: Tensor) -> tuple[Tensor, Tensor]:
        """Right and known paths."""
        complete = labeled.all(1)
        return ((predicted == target).all(1) & complete).sum(), complete.sum()


class TreeInconsistency(PathMetric):
    """The share of images whose predicted classes are not a path of the tree (TICE): a float32 scalar.

    The labels do not matter, but where they are given, images whose path is not wholly known are left out: so
    FPA and TICE are of the same images, and TICE is at most 1 - FPA.
    """

    higher_is_better = False
    states = ("astray", "total")

    def update(self, predicted: Tensor, target: Tensor | None = None, valid: Tensor | None = None) -> None:
        """Count a batch; see :meth:`PathMetric.update`.  Without a target every real row counts."""
        super().update(predicted, torch.zeros_like(predicted) if target is None else target, valid)

    def terms(self, predicted: Tensor, target: Tensor, labeled: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions that are not a path, and known paths."""
        # A finest class has one path.  Numbers for whole paths would grow with the product of the sizes.
        path = self.paths[predicted[:, -1].clamp(0, self.sizes[-1] - 1)]
        complete = labeled.all(1)
        return ((path != predicted).any(1) & complete).sum(), complete.sum()
