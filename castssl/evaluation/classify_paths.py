"""How often an objective names the right classes of images that it never saw, at all label levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, prod
from typing import Any

import torch
from torch import Tensor

from castssl.contracts import Objective
from castssl.errors import ConfigError
from castssl.evaluation.held_out import HeldOut
from castssl.evaluation.neighbours import Device
from castssl.metrics.balanced import BalancedAccuracy, majority
from castssl.metrics.hie import hie as amend
from castssl.metrics.hierarchy import (
    FullPathAccuracy,
    LevelAccuracy,
    TreeInconsistency,
    WeightedAveragePrecision,
)
from castssl.metrics.mistakes import HierarchicalDistance, MistakeSeverity
from castssl.modes import evaluating
from castssl.types import LabelTree


class PathMarks:
    """Counts logits of all levels, and gives the marks by name.

    ``fpa`` (the whole path is right), ``tice`` (the classes are no path of the tree), ``wap``, and
    ``level0``, ``level1``, ... (accuracies, coarse to fine; ``level0_balanced``, ... by
    class) are shares in [0, 1].  ``severity_levels`` and ``distance1_levels``, ``distance5_levels``,
    ``distance20_levels`` are heights in the tree, 0 to L; see
    :mod:`castssl.metrics.hierarchy` and :mod:`castssl.metrics.mistakes`.

    Args:
        tree: the label tree.
        device: where the logits are.
        suffix: is put behind each mark's name, before its unit.

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
        predicted = torch.stack([each.argmax(1) for each in logits], dim=1)
        for meter in (self.fpa, self.tice, self.wap, self.levels, self.severity):
            meter.update(predicted, target, valid)
        for level, by_class in enumerate(self.balanced):
            by_class.update(predicted[:, level], target[:, level], valid)
        self.distance.update(logits[-1], target, valid)

    def compute(self) -> dict[str, float]:
        """The marks over all processes, less those that no image decides, as severity without mistakes."""
        found = {"fpa": self.fpa.compute(), "tice": self.tice.compute(), "wap": self.wap.compute()}
        found |= {f"level{level}": share for level, share in enumerate(self.levels.compute().flatten())}
        found |= {f"level{level}_balanced": meter.compute() for level, meter in enumerate(self.balanced)}
        found["severity_levels"] = self.severity.compute()
        heights = zip(self.distance.top_k, self.distance.compute().flatten(), strict=True)
        found |= {f"distance{k}_levels": height for k, height in heights}
        values = {name: float(value) for name, value in found.items()}
        return {_named(name, self.suffix): value for name, value in values.items() if not isnan(value)}


@dataclass
class HierarchicalRecognition(HeldOut):
    """Full-path accuracy and what belongs to it; every rank must sit it together.

    It does not depend on the number of ranks: each image is looked at once.  The fields are those of
    :class:`castssl.evaluation.held_out.HeldOut`.
    """

    def sit(
        self, objective: Objective, device: Device, *, hie: bool = False, **options: Any
    ) -> dict[str, float]:
        """The marks that :class:`PathMarks` names; none if the images have no label levels.

        Args:
            objective: its ``predict`` must give the logits of all levels of the images, coarse to fine.
            device: where it is.
            hie: give all marks a second time, for the same logits after :func:`castssl.metrics.hie.hie`:
                ``fpa_hie``, ``severity_hie_levels``, ...
            options: for ``predict``, such as ``branch="ema"``.

        Raises:
            ConfigError: if the objective was built for other levels or classes than the images have.
        """
        if not self.tree.levels:
            return {}
        plain = PathMarks(self.tree, device)
        amended = PathMarks(self.tree, device, suffix="_hie")
        with evaluating(objective), torch.no_grad():
            for batch in self.batches(device):
                logits = _logits(objective.predict(batch.views[0], **options), self.tree)
                plain.update(logits, batch.target)
                if hie:
                    amended.update(amend(logits, self.tree), batch.target)
        return plain.compute() | (amended.compute() if hie else {})

    def by_chance(self) -> dict[str, float]:
        """The same marks for who guesses each level by itself, if all finest classes have as many images."""
        sizes = self.tree.sizes
        if not sizes:
            return {}
        marks = {"fpa": 1 / prod(sizes), "tice": 1 - sizes[-1] / prod(sizes), "wap": len(sizes) / sum(sizes)}
        marks |= {f"level{level}": 1 / classes for level, classes in enumerate(sizes)}
        marks |= {f"level{level}_balanced": 1 / classes for level, classes in enumerate(sizes)}
        paths = self.tree.paths()
        shared = sum(float(column.bincount().square().sum()) for column in paths.unbind(1))
        height = len(sizes) - shared / sizes[-1] ** 2
        if sizes[-1] > 1:
            marks["severity_levels"] = height / (1 - 1 / sizes[-1])
        return marks | {f"distance{k}_levels": height for k in HierarchicalDistance(self.tree).top_k}

    def by_majority(self) -> dict[str, float]:
        """Each level's accuracy of its most frequent class as a constant answer, and ``fpa`` of the path."""
        shares = {f"level{level}": share for level, share in majority(self.labels()).items()}
        whole = self.labels()[(self.labels() >= 0).all(1)]
        if len(whole):
            paths = Counter(map(tuple, whole.tolist()))
            shares["fpa"] = max(paths.values()) / len(whole)
        return shares


def _named(mark: str, suffix: str) -> str:
    """``fpa`` -> ``fpa_hie``, and ``severity_levels`` -> ``severity_hie_levels``: the unit stays last."""
    stem = mark.removesuffix("_levels")
    return stem + suffix + mark[len(stem) :]


def _logits(predicted: Mapping[str, Tensor], tree: LabelTree) -> list[Tensor]:
    """The logits in float32, coarse to fine."""
    logits = [each.float() for each in predicted.values()]
    learnt = tuple(each.shape[1] for each in logits)
    if learnt != tree.sizes:
        raise ConfigError(
            f"levels of {learnt} classes were learnt, but the held-out images have {tree.sizes}, coarse to"
            " fine; train/ and val/ must have the same folders, and the objective must predict every level"
        )
    return logits
