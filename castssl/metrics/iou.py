"""Mean intersection over union of class maps, from one confusion matrix over all pixels of a data set.

The intersections and unions of a class are summed over the images before they are divided, as in
mmsegmentation's ``IoUMetric``, whose two decimals these numbers reproduce.  ``MeanIoU`` of torchmetrics
averages over images instead, and has no ignore index.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from castssl.errors import DataError


class ClassMapScores(NamedTuple):
    """The scores of class maps as shares in [0, 1], float64; not a number where nothing was counted."""

    mean_iou: Tensor
    """Scalar, the mean over the classes that occur in truth or prediction (mIoU)."""
    pixel_accuracy: Tensor
    """Scalar, the share of all labeled pixels whose class is right (aAcc)."""
    class_accuracy: Tensor
    """Scalar, the mean over the classes that occur in the truth of the share of their pixels (mAcc)."""
    iou: Tensor
    """(C,), by class; not a number for a class that occurs in neither truth nor prediction."""
    accuracy: Tensor
    """(C,), by class; not a number for a class that does not occur in the truth."""
    pixels: Tensor
    """(C,), how many labeled pixels each class has."""


def check_maps(predicted: Tensor, truth: Tensor, classes: int, ignore_index: int) -> None:
    """Refuse what are no class maps; nothing waits for a device.

    Args:
        predicted: of any shape.
        truth: likewise.
        classes: C.
        ignore_index: the label of pixels without a class.

    Raises:
        ValueError: if the shapes differ, labels are not whole numbers, or ``ignore_index`` is a class.
    """
    if predicted.shape != truth.shape:
        raise ValueError(
            f"predicted classes of shape {tuple(predicted.shape)} and labels of shape {tuple(truth.shape)};"
            " resize the logits to the labels' size before argmax"
        )
    if 0 <= ignore_index < classes:
        raise ValueError(
            f"ignore_index {ignore_index} is one of {classes} classes, expected -1 or {classes} and more"
        )
    if predicted.is_floating_point() or truth.is_floating_point():
        raise ValueError(f"expected whole numbers, got {predicted.dtype} and {truth.dtype}; take the argmax")


def count_pairs(predicted: Tensor, truth: Tensor, classes: int, ignore_index: int = 255) -> Tensor:
    """The confusion matrix of class maps; nothing waits for a device.

    Args:
        predicted: integer tensor of any shape.
        truth: integer tensor of the same shape; pixels of -1 and ``ignore_index`` are not counted.
        classes: C.
        ignore_index: see ``truth``; must not be a class.

    Returns:
        int64 (C + 1, C + 1), truth in rows, prediction in columns.  The last row and the last column count
        labels that are not classes.

    Raises:
        ValueError: as :func:`check_maps`.
    """
    check_maps(predicted, truth, classes, ignore_index)
    predicted, truth = predicted.flatten().long(), truth.flatten().long()
    counted = ((truth != -1) & (truth != ignore_index)).long()
    rows, columns = (
        torch.where((label >= 0) & (label < classes), label, classes) for label in (truth, predicted)
    )
    pairs = counted.new_zeros((classes + 1) ** 2).scatter_add(0, rows * (classes + 1) + columns, counted)
    return pairs.view(classes + 1, classes + 1)


def scores(confusion: Tensor) -> ClassMapScores:
    """The scores of a confusion matrix (C, C), truth in rows; in float64 on the processor."""
    counts = confusion.cpu().double()
    right, true, claimed = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou, accuracy = right / (true + claimed - right), right / true
    return ClassMapScores(iou.nanmean(), right.sum() / true.sum(), accuracy.nanmean(), iou, accuracy, true)


class MeanIoU(Metric):
    """mIoU of a data set's class maps, exact for any number of processes: their integer counts are summed.

    A class that occurs in neither truth nor prediction is left out of the mean; a class that is only
    predicted has IoU 0.  In ``IoUMetric`` a label that is not a class counts in the unions without notice, so
    that a wrong number of classes lowers mIoU; here it is an error.

    Args:
        classes: C, at least 2.
        ignore_index: a label that is not counted, besides -1.
        options: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if there are fewer than 2 classes, or ``ignore_index`` is a class.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: int, ignore_index: int = 255, **options: object) -> None:
        if classes < 2:
            raise ValueError(f"mIoU needs at least 2 classes, got {classes}; one class is always right")
        super().__init__(**options)
        self.classes = classes
        self.ignore_index = ignore_index
        empty = torch.zeros(1, dtype=torch.int64)
        count_pairs(empty, empty, classes, ignore_index)  # Refuses a wrong ignore_index at once.
        self.add_state(
            "confusion", torch.zeros(classes + 1, classes + 1, dtype=torch.int64), dist_reduce_fx="sum"
        )

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count a batch or one image of any size; nothing waits for a device.

        Args:
            predicted: integer (..., H, W), each a class.
            truth: integer (..., H, W), each a class, -1 or the ignore index.

        Raises:
            ValueError: if the shapes differ.
        """
        self.confusion = self.confusion + count_pairs(predicted, truth, self.classes, self.ignore_index)

    def compute(self) -> ClassMapScores:
        """The scores of all pixels of all processes.

        Raises:
            DataError: if truth or prediction has labels that are neither a class nor ignored.
        """
        outside = {"truth": self.confusion[-1].sum(), "prediction": self.confusion[:, -1].sum()}
        wrong = [f"{int(count):,} pixels of the {name}" for name, count in outside.items() if count]
        if wrong:
            raise DataError(
                f"{' and '.join(wrong)} have labels outside 0 to {self.classes - 1}, expected these, -1"
                f" or the ignore index {self.ignore_index}; check the number of classes,"
                " reduce_zero_label and the label files"
            )
        return scores(self.confusion[:-1, :-1])
