"""The prediction for each held-out image, and what follows from them: by class, confusion, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from castssl.evaluation.held_out import Evaluator, Forward, ImageBatch, Subject, indexed

BINS = 15
"""Bins of equal width of the confidence in the calibration error."""


class Level(NamedTuple):
    """The predictions at one label level, for n images in order."""

    label: Tensor
    """int64 (n,), -1 where unknown."""
    predicted: Tensor
    """int64 (n,)."""
    probability: Tensor
    """float32 (n,), the softmax's share of the predicted class, 0 to 1."""

    @property
    def labeled(self) -> Level:
        """Of the images whose label is known."""
        known = self.label >= 0
        return Level(*(column[known] for column in self))

    def confusion(self, classes: int) -> Tensor:
        """How many images of each class (rows) are predicted as each class (columns): int64 (C, C)."""
        # Not validated: torchmetrics refuses a level of one class.
        counts: Tensor = multiclass_confusion_matrix(
            self.predicted, self.label, classes, ignore_index=-1, validate_args=False
        )
        return counts

    def pairs(self) -> tuple[Tensor, Tensor]:
        """The confusion without its zeros, whose size does not depend on the number of classes.

        Returns:
            The true and the predicted class of each pair that occurs, int64 (m, 2) in increasing order, and
            the number of its images, int64 (m,).
        """
        known = self.labeled
        both = torch.stack([known.label, known.predicted], 1)
        pairs: Tensor
        counts: Tensor
        pairs, counts = torch.unique(both, dim=0, return_counts=True)
        return pairs, counts

    def grouped(self, size: int) -> Level:
        """The same with each ``size`` consecutive classes as one."""
        return Level(self.label // size, self.predicted // size, self.probability)

    def by_class(self, classes: int) -> dict[str, Tensor]:
        """Recall, precision and F1 of each class: float32 (C,) in [0, 1], 0 where they are 0 of 0."""
        # Not by torchmetrics, which counts all pairs of classes.
        known = self.labeled
        right = torch.bincount(known.label[known.label == known.predicted], minlength=classes)
        actual, predicted = (torch.bincount(part, minlength=classes) for part in known[:2])
        whole = {"recall": actual, "precision": predicted, "f1": (actual + predicted) / 2}
        return {name: right / counts.clamp(min=0.5) for name, counts in whole.items()}

    def calibration_error(self) -> float:
        """The expected calibration error (ECE) of the predicted classes, in [0, 1].

        The mean over images of |accuracy - mean probability| of the image's bin, of 15 bins of equal width of
        the probability (Naeini et al. 2015; Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3).
        Not a number without a labeled image.
        """
        # Not by torchmetrics, which puts probabilities of exactly 1 into a 16th bin.
        bins = self.reliability()
        images = sum(count for count, *_ in bins)
        apart = sum(count * abs(accuracy - mean) for count, mean, accuracy in bins)
        return apart / images if images else nan

    def reliability(self) -> list[tuple[int, float, float]]:
        """Of each bin: how many images, their mean probability, their accuracy; 0 in an empty bin."""
        known = self.labeled
        index = (known.probability * BINS).ceil().long().clamp(1, BINS) - 1
        counts = torch.bincount(index, minlength=BINS)
        right = known.predicted == known.label
        sums = (
            torch.bincount(index, weights=values.double(), minlength=BINS)
            for values in (known.probability, right)
        )
        means = (total / counts.clamp(min=1) for total in sums)
        return list(zip(counts.tolist(), *(mean.tolist() for mean in means), strict=True))


@dataclass(eq=False)
class Predictions(Evaluator):
    """Keeps the class, and its probability, that the subject predicts for each held-out image.

    ``ece``, or ``ece_level0``, ... of several levels, is :meth:`Level.calibration_error`.  Afterwards every
    process has the predictions for all images.

    Args:
        columns: the label levels that the subject predicts, in the order of its logits.

    Attributes:
        levels: one for each of ``columns``.
        read: int64 (n,), the image that was read for each image: another one if it is unreadable.
    """

    title: ClassVar[str] = "predictions"
    columns: Sequence[int] = (-1,)
    levels: list[Level] = field(default_factory=list, init=False, repr=False)
    read: Tensor = field(init=False, repr=False)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Keep the predictions for a batch."""
        pairs = [logits.softmax(1).max(1) for logits in forward.logits(batch.views[0])]
        probability, predicted = (torch.stack(list(column), 1) for column in zip(*pairs, strict=True))
        read = torch.tensor([self._readable(int(position)) for position in batch.positions])
        numbers = torch.cat([batch.target.cpu(), predicted.cpu(), read[:, None]], 1)
        self._rows.add(probability, numbers, batch.positions)

    def result(self, subject: Subject) -> dict[str, float]:
        """The calibration error of each level; none where no image has a label."""
        probability, numbers = self._rows.gather()
        known = numbers.shape[1] - probability.shape[1] - 1
        labels, predicted, self.read = numbers[:, :known], numbers[:, known:-1], numbers[:, -1]
        unknown = torch.full((len(numbers),), -1)
        self.levels = [
            Level(labels[:, column] if known else unknown, predicted[:, place], probability[:, place])
            for place, column in enumerate(self.columns)
        ]
        names = [f"ece_level{c}" for c in self.columns] if len(self.columns) > 1 else ["ece"]
        errors = {name: one.calibration_error() for name, one in zip(names, self.levels, strict=True)}
        return {name: error for name, error in errors.items() if not isnan(error)}

    def _readable(self, position: int) -> int:
        """The image that the data set gives at a position, which is the next one if that is unreadable."""
        images = indexed(self._data.held_out)
        while images.source.path(int(images.rows[position])) in images.bad:
            position = (position + 1) % len(images)
        return position
