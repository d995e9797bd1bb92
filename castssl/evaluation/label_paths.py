"""Label paths: how often a subject predicts the right classes of held-out images, at all label levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan, prod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.errors import ConfigError
from castssl.evaluation.features import Device
from castssl.evaluation.held_out import Evaluator, Forward, ImageBatch, Subject
from castssl.labels import LabelTree
from castssl.metrics.balanced import BalancedAccuracy
from castssl.metrics.hie import hie
from castssl.metrics.hierarchy import (
    FullPathAccuracy,
    LevelAccuracy,
    TreeInconsistency,
    WeightedAveragePrecision,
)
from castssl.metrics.mistakes import HierarchicalDistance, MistakeSeverity

PART = 4096
"""Label paths for which the majority is counted at a time: at most 160 MB of logits for 10,000 classes."""


@dataclass(eq=False)
class LabelPaths(Evaluator):
    """Full-path accuracy and what belongs to it: the metrics that :class:`PathMetrics` names.

    The subject must predict the logits of all levels of the images, coarse to fine.  Nothing is measured if
    the images have no label levels.

    Args:
        hie: give all metrics a second time, for the same logits after :func:`castssl.metrics.hie.hie`:
            ``fpa_hie``, ``severity_hie_levels``, ...
    """

    by_index: ClassVar[bool] = False
    title: ClassVar[str] = "label paths"
    hie: bool = False
    _metrics: list[PathMetrics] = field(default_factory=list, init=False, repr=False)

    def begin(self, subject: Subject) -> None:
        """Count anew."""
        suffixes = ["", *["_hie"] * self.hie] if self._data.tree.levels else []
        self._metrics = [
            PathMetrics(self._data.tree, self._data.device, suffix=suffix) for suffix in suffixes
        ]

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Count a batch.

        Raises:
            ConfigError: if the subject learned other levels or classes than the images have.
        """
        if not self._metrics:
            return
        tree, logits = self._data.tree, forward.logits(batch.views[0])
        check_levels(logits, tree)
        for metrics in self._metrics:
            metrics.update(hie(logits, tree) if metrics.suffix else logits, batch.target)

    def result(self, subject: Subject) -> dict[str, float]:
        """The metrics, then those after HiE."""
        return {name: value for metrics in self._metrics for name, value in metrics.compute().items()}

    def chance(self) -> dict[str, float]:
        """Guesses of each level by itself, if all finest classes have as many images."""
        tree = self._data.tree
        if not tree.levels:
            return {}
        sizes, count = tree.sizes, prod(tree.sizes)
        levels = {"fpa": 1 / count, "tice": 1 - sizes[-1] / count, "wap": len(sizes) / sum(sizes)}
        levels |= {f"level{level}": 1 / classes for level, classes in enumerate(sizes)}
        levels |= {f"level{level}_balanced": 1 / classes for level, classes in enumerate(sizes)}
        shared = sum(float(column.bincount().square().sum()) for column in tree.paths().unbind(1))
        height = len(sizes) - shared / sizes[-1] ** 2
        if sizes[-1] > 1:
            levels["severity_levels"] = height / (1 - 1 / sizes[-1])
        return levels | {f"distance{k}_levels": height for k in HierarchicalDistance(tree).top_k}

    def majority(self) -> dict[str, float]:
        """Constant predictions: of levels the most frequent class of each, of paths the most frequent path.

        The finest classes of ``distance*_levels`` are that path's, then the most frequent ones.
        """
        labels, tree = self._data.labels(), self._data.tree
        if not tree.levels or (path := frequent_path(labels)) is None:
            return {}
        frequent = [
            column[column >= 0].bincount(minlength=n) for column, n in zip(labels.T, tree.sizes, strict=True)
        ]
        first = [F.one_hot(label, n) * len(labels) for label, n in zip(path, tree.sizes, strict=True)]
        by_level, by_path = PathMetrics(tree), PathMetrics(tree)
        for part in labels.split(PART):
            by_level.update([level.expand(len(part), -1) for level in frequent], part)
            likely = [level + of_path for level, of_path in zip(frequent, first, strict=True)]
            by_path.update([level.expand(len(part), -1) for level in likely], part)
        of_levels = {
            name: share for name, share in by_level.compute().items() if name.startswith(("level", "wap"))
        }
        return by_path.compute() | of_levels


def frequent_path(labels: Tensor) -> Tensor | None:
    """The most frequent complete label path: int64 (L,) of int64 (N, L), -1 unknown; None without any."""
    complete = labels[(labels >= 0).all(1)]
    if not len(complete):
        return None
    paths, often = complete.unique(dim=0, return_counts=True)
    path: Tensor = paths[often.argmax()]
    return path


class PathMetrics:
    """Counts logits of all levels, and gives the metrics by name.

    ``fpa`` (the whole path is right), ``tice`` (the classes are not a path of the tree), ``wap``, and
    ``level0``, ``level1``, ... (accuracies, coarse to fine; ``level0_balanced``, ... by
    class) are shares in [0, 1].  ``severity_levels`` and ``distance1_levels``, ``distance5_levels``,
    ``distance20_levels`` are heights in the tree, 0 to L; see
    :mod:`castssl.metrics.hierarchy` and :mod:`castssl.metrics.mistakes`.

    Args:
        tree: the label tree.
        device: where the logits are.
        suffix: is put behind each metric's name, before its unit.

    Raises:
        ConfigError: if the tree has no levels, or an image may carry many labels at once.
    """

    def __init__(self, tree: LabelTree, device: Device = "cpu", *, suffix: str = "") -> None:
        self.suffix = suffix
        self.fpa = FullPathAccuracy(tree).to(device)
        self.tice = TreeInconsistency(tree).to(device)
        self.wap = WeightedAveragePrecision(tree).to(device)
        self.levels = LevelAccuracy(tree).to(device)
        self.balanced = [BalancedAccuracy(classes).to(device) for classes in tree.sizes]
        self.severity = MistakeSeverity(tree).to(device)
        self.distance = HierarchicalDistance(tree).to(device)

    def update(self, logits: Sequence[Tensor], target: Tensor, valid: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            logits: float (B, C) of each level, coarse to fine.
            target: int64 (B, L), coarse to fine; -1 is unknown.
            valid: bool (B,), False for rows that only fill the batch.
        """
        predicted = torch.stack([scores.argmax(1) for scores in logits], dim=1)
        for meter in (self.fpa, self.tice, self.wap, self.levels, self.severity):
            meter.update(predicted, target, valid)
        for level, by_class in enumerate(self.balanced):
            by_class.update(predicted[:, level], target[:, level], valid)
        self.distance.update(logits[-1], target, valid)

    def compute(self) -> dict[str, float]:
        """The metrics over all processes; those that no image decides are left out."""
        metrics = {"fpa": self.fpa.compute(), "tice": self.tice.compute(), "wap": self.wap.compute()}
        metrics |= {f"level{level}": share for level, share in enumerate(self.levels.compute().flatten())}
        metrics |= {f"level{level}_balanced": meter.compute() for level, meter in enumerate(self.balanced)}
        metrics["severity_levels"] = self.severity.compute()
        heights = zip(self.distance.top_k, self.distance.compute().flatten(), strict=True)
        metrics |= {f"distance{k}_levels": height for k, height in heights}
        values = {name: float(value) for name, value in metrics.items()}
        return {_named(name, self.suffix): value for name, value in values.items() if not isnan(value)}


def _named(metric: str, suffix: str) -> str:
    """``fpa`` -> ``fpa_hie``, and ``severity_levels`` -> ``severity_hie_levels``: the unit stays last."""
    stem = metric.removesuffix("_levels")
    return stem + suffix + metric[len(stem) :]


def check_levels(logits: Sequence[Tensor], tree: LabelTree) -> None:
    """Refuse logits of other levels than those of the held-out images.

    Raises:
        ConfigError: naming the classes of both.
    """
    learned = tuple(scores.shape[1] for scores in logits)
    if learned != tree.sizes:
        raise ConfigError(
            f"levels of {learned} classes were learned, but the held-out images have {tree.sizes}, coarse to"
            " fine; train/ and val/ must have the same folders, and the objective must predict every level"
        )
