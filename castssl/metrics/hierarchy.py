"""How good label paths are: each level, the whole path, and agreement with the tree.

Accuracies, full-path accuracy (FPA), tree inconsistency (TICE) and weighted average precision (wAP) are those
of H-CAST (Visually Consistent Hierarchical Image Classification, https://arxiv.org/abs/2406.11608).

All are sums of whole numbers, so any number of processes gives the very same result.  Nothing in ``update``
waits for the device.  A share is in [0, 1]; without any image it is not a number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from castssl.errors import ConfigError
from castssl.types import LabelTree


class PathMetric(Metric):
    """What metrics of label paths share: the tree, checked shapes, and which labels are known.

    A label -1 is unknown.  A prediction that is no class of its level (such as -1, "not sure") is wrong and
    on no path.

    Args:
        tree: the label tree.
        options: of :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: if the tree has no levels, or an image may carry many labels at once.
    """

    is_differentiable = False
    full_state_update = False
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

    def counts(self, *names: str, shape: tuple[int, ...] = ()) -> None:
        """States that are summed over batches and processes."""
        for name in names:
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def check(self, name: str, paths: Tensor) -> None:
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

    higher_is_better = True
    right: Tensor
    total: Tensor

    def __init__(self, tree: LabelTree, **options: Any) -> None:
        super().__init__(tree, **options)
        self.counts("right", "total", shape=(tree.levels,))

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
        self.right = self.right + ((predicted == target) & labeled).sum(0)
        self.total = self.total + labeled.sum(0)

    def compute(self) -> Tensor:
        """float32 (L,)."""
        return self.right / self.total


class WeightedAveragePrecision(LevelAccuracy):
    """The mean of the levels' accuracies, weighted by their numbers of classes (wAP): a float32 scalar.

    The sum over levels l of C_l Acc_l, divided by the sum of C_l.  H-CAST's code does not compute it; this
    formula gives 29 of the poster's 36 values, see ``recipes/hierarchy.md``.  Each level's accuracy is over
    the images whose label is known there.
    """

    def compute(self) -> Tensor:
        """float32 scalar; not a number if a level has no image."""
        weight = torch.tensor(self.sizes, device=self.total.device) / sum(self.sizes)
        return (weight * super().compute()).sum()


class FullPathAccuracy(PathMetric):
    """The share of images that are right at every level (FPA): a float32 scalar.

    Counts the images whose whole path is known.
    """

    higher_is_better = True
    right: Tensor
    total: Tensor

    def __init__(self, tree: LabelTree, **options: Any) -> None:
        super().__init__(tree, **options)
        self.counts("right", "total")

    def update(self, predicted: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Count a batch; see :meth:`LevelAccuracy.update`."""
        self.check("predicted", predicted)
        complete = self.labeled(predicted, target, valid).all(1)
        self.right = self.right + ((predicted == target).all(1) & complete).sum()
        self.total = self.total + complete.sum()

    def compute(self) -> Tensor:
        """float32 scalar."""
        return self.right / self.total


class TreeInconsistency(PathMetric):
    """The share of images whose predicted classes are no path of the tree (TICE): a float32 scalar.

    The labels do not matter, but where they are given, images whose path is not wholly known are left out: so
    FPA and TICE are of the same images, and TICE is at most 1 - FPA.
    """

    higher_is_better = False
    astray: Tensor
    total: Tensor

    def __init__(self, tree: LabelTree, **options: Any) -> None:
        super().__init__(tree, **options)
        self.counts("astray", "total")

    def update(self, predicted: Tensor, target: Tensor | None = None, valid: Tensor | None = None) -> None:
        """Count a batch; see :meth:`LevelAccuracy.update`.  Without a target every real row counts."""
        self.check("predicted", predicted)
        complete = self.labeled(
            predicted, torch.zeros_like(predicted) if target is None else target, valid
        ).all(1)
        # A finest class has one path.  Numbers for whole paths would grow with the product of the sizes.
        path = self.paths[predicted[:, -1].clamp(0, self.sizes[-1] - 1)]
        self.astray = self.astray + ((path != predicted).any(1) & complete).sum()
        self.total = self.total + complete.sum()

    def compute(self) -> Tensor:
        """float32 scalar."""
        return self.astray / self.total
