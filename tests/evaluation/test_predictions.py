"""What follows from predictions, against torchmetrics on logits and against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.functional.classification import (
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from castssl.evaluation.predictions import BINS, Level


def level(n: int = 200, classes: int = 4) -> tuple[Level, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, classes, generator=generator)
    labels = torch.randint(-1, classes, (n,), generator=generator)
    probability, predicted = logits.softmax(1).max(1)
    return Level(labels, predicted, probability), logits


def test_the_calibration_error_is_torchmetrics_of_the_logits() -> None:
    found, logits = level()
    metric = MulticlassCalibrationError(4, n_bins=BINS, norm="l1", ignore_index=-1)
    assert found.calibration_error() == pytest.approx(float(metric(logits.softmax(1), found.label)), abs=1e-6)
    bins = found.reliability()
    total = sum(count for count, *_ in bins)
    assert total == int((found.label >= 0).sum())
    error = sum(count * abs(accuracy - mean) for count, mean, accuracy in bins) / total
    assert error == pytest.approx(found.calibration_error(), abs=1e-6)


def test_a_probability_of_1_is_in_the_last_of_15_bins() -> None:
    label, probability = torch.tensor([0, 0, 1, 0, -1]), torch.tensor([1.0, 1.0, 1.0, 0.97, 1.0])
    found = Level(label, torch.zeros(5, dtype=torch.int64), probability)
    assert [count for count, *_ in found.reliability()] == [0] * (BINS - 1) + [4]
    assert found.calibration_error() == pytest.approx(3.97 / 4 - 3 / 4)
    unlabeled = Level(*(column[4:] for column in found))
    assert math.isnan(unlabeled.calibration_error())


def test_confusion_and_classes_are_counts() -> None:
    found, _ = level()
    counts = torch.zeros(4, 4, dtype=torch.int64)
    for label, predicted in zip(found.label.tolist(), found.predicted.tolist(), strict=True):
        if label >= 0:
            counts[label, predicted] += 1
    assert torch.equal(found.confusion(4), counts)
    by_class = found.by_class(4)
    torch.testing.assert_close(by_class["recall"], counts.diag() / counts.sum(1))
    torch.testing.assert_close(by_class["precision"], counts.diag() / counts.sum(0))
    harmonic = 2 * counts.diag() / (counts.sum(0) + counts.sum(1))
    torch.testing.assert_close(by_class["f1"], harmonic)


def test_pairs_are_the_confusion_without_its_zeros() -> None:
    found, _ = level()
    pairs, counts = found.pairs()
    whole = torch.zeros(4, 4, dtype=torch.int64)
    whole[pairs[:, 0], pairs[:, 1]] = counts
    assert torch.equal(whole, found.confusion(4))
    assert int(counts.min()) > 0
    halves = found.grouped(2).confusion(2)
    assert torch.equal(halves, whole.view(2, 2, 2, 2).sum((1, 3)))


def test_measures_of_classes_are_those_of_torchmetrics() -> None:
    """Also of classes without an image, without a prediction, and without both."""
    label = torch.tensor([0, 0, 1, 2, 2, -1, 5])
    found = Level(label, torch.tensor([0, 3, 1, 2, 0, 1, 3]), torch.ones(7))
    measures = {"recall": multiclass_recall, "precision": multiclass_precision, "f1": multiclass_f1_score}
    options: dict[str, Any] = {"num_classes": 6, "average": "none", "ignore_index": -1}
    for name, values in found.by_class(6).items():
        expected = measures[name](found.predicted, found.label, **options)
        torch.testing.assert_close(values, expected, atol=0, rtol=0)


def test_a_level_of_one_class_is_counted_too() -> None:
    label, predicted = torch.tensor([0, 0, -1]), torch.zeros(3, dtype=torch.int64)
    found = Level(label, predicted, torch.ones(3))
    assert found.confusion(1).tolist() == [[2]]
    assert {name: values.tolist() for name, values in found.by_class(1).items()} == {
        "recall": [1],
        "precision": [1],
        "f1": [1],
    }
