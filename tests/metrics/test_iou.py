"""mIoU against loops over pixels in float64 and against a plain copy of what IoUMetric computes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from castssl import distributed
from castssl.errors import DataError
from castssl.metrics.iou import ClassMapScores, MeanIoU, count_pairs
from castssl.testing.processes import together

seeds = st.integers(0, 10_000)
IGNORE = 255


def maps(seed: int, classes: int, images: int = 3, side: int = 7) -> tuple[Tensor, Tensor]:
    """Predictions and truths in which some classes are absent and some pixels are ignored in both ways."""
    draw = torch.Generator().manual_seed(seed)
    present = torch.randint(classes, (max(classes // 2, 1),), generator=draw)
    shape = (images, side, side)
    predicted = present[torch.randint(len(present), shape, generator=draw)]
    truth = torch.where(
        torch.rand(shape, generator=draw) < 0.5, predicted, torch.randint(classes, shape, generator=draw)
    )
    unknown = torch.rand(shape, generator=draw)
    return predicted, truth.masked_fill(unknown < 0.1, -1).masked_fill(unknown > 0.9, IGNORE)


def naive(predicted: Tensor, truth: Tensor, classes: int) -> dict[str, float | list[float]]:
    """The definition, with sets of pixels and Python's floats."""
    pixels = [
        (p, t)
        for p, t in zip(predicted.flatten().tolist(), truth.flatten().tolist(), strict=True)
        if t not in (-1, IGNORE)
    ]
    iou, accuracy = [], []
    for label in range(classes):
        both = sum(p == t == label for p, t in pixels)
        either = sum(label in pair for pair in pixels)
        true = sum(t == label for _, t in pixels)
        iou.append(both / either if either else math.nan)
        accuracy.append(both / true if true else math.nan)
    right = sum(p == t for p, t in pixels)
    means = [mean([value for value in values if not math.isnan(value)]) for values in (iou, accuracy)]
    return {
        "mean_iou": means[0],
        "pixel_accuracy": right / len(pixels) if pixels else math.nan,
        "class_accuracy": means[1],
        "iou": iou,
        "accuracy": accuracy,
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def iou_metric(predicted: Tensor, truth: Tensor, classes: int) -> dict[str, float]:
    """mmsegmentation's IoUMetric: histograms of each image in float32, per cent with two decimals."""
    total = torch.zeros(3, classes)
    for found, true in zip(predicted, truth, strict=True):
        p, t = found[true != IGNORE], true[true != IGNORE]
        counts = [torch.histc(label.float(), classes, 0, classes - 1) for label in (p[p == t], p, t)]
        total += torch.stack(counts)
    inside, claimed, known = total.numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, accuracy = inside / (claimed + known - inside), inside / known
        shares = {"mIoU": np.nanmean(iou), "aAcc": inside.sum() / known.sum(), "mAcc": np.nanmean(accuracy)}
    return {name: float(np.round(share * 100, 2)) for name, share in shares.items()}


def measured(predicted: Tensor, truth: Tensor, classes: int) -> ClassMapScores:
    metric = MeanIoU(classes)
    for found, true in zip(predicted, truth, strict=True):
        metric.update(found, true)
    result: ClassMapScores = metric.compute()
    return result


@given(seed=seeds, classes=st.integers(2, 9))
@settings(deadline=None, max_examples=60)
def test_the_scores_are_those_of_the_definition(seed: int, classes: int) -> None:
    predicted, truth = maps(seed, classes)
    got, expected = measured(predicted, truth, classes), naive(predicted, truth, classes)
    for name, value in expected.items():
        wanted = torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(getattr(got, name), wanted, atol=1e-9, rtol=0, equal_nan=True)


@given(seed=seeds, classes=st.integers(2, 9))
@settings(deadline=None, max_examples=60)
def test_two_decimals_are_those_of_iou_metric(seed: int, classes: int) -> None:
    predicted, truth = maps(seed, classes, side=24)
    truth = torch.where(truth == -1, IGNORE, truth)
    got, expected = measured(predicted, truth, classes), iou_metric(predicted, truth, classes)
    ours = {"mIoU": got.mean_iou, "aAcc": got.pixel_accuracy, "mAcc": got.class_accuracy}
    for name, value in expected.items():
        assert abs(float(ours[name]) * 100 - value) <= 0.005 + 1e-4, name


@given(seed=seeds)
@settings(deadline=None, max_examples=20)
def test_a_batch_counts_as_its_images_one_by_one(seed: int) -> None:
    predicted, truth = maps(seed, 5)
    whole = MeanIoU(5)
    whole.update(predicted, truth)
    parts = [count_pairs(found, true, 5) for found, true in zip(predicted, truth, strict=True)]
    assert torch.equal(whole.confusion, torch.stack(parts).sum(0))
    assert int(whole.confusion.sum()) == int(((truth != -1) & (truth != IGNORE)).sum())


def test_a_class_that_occurs_nowhere_is_left_out_and_one_that_is_only_predicted_is_wrong() -> None:
    got = measured(torch.tensor([[[0, 0, 1]]]), torch.tensor([[[0, 0, 0]]]), 3)
    assert got.iou[:2].tolist() == [2 / 3, 0.0]
    assert math.isnan(got.iou[2])
    assert float(got.mean_iou) == pytest.approx(1 / 3)
    assert float(got.class_accuracy) == pytest.approx(2 / 3)
    assert torch.isnan(got.accuracy[1:]).all()


def test_ignored_pixels_count_neither_for_the_truth_nor_for_the_prediction() -> None:
    got = measured(torch.tensor([[[0, 1, 7]]]), torch.tensor([[[0, -1, IGNORE]]]), 2)
    assert got.iou[0] == 1
    assert math.isnan(got.iou[1])


def test_no_labeled_pixel_has_no_score() -> None:
    assert math.isnan(measured(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), -1), 2).mean_iou)


@pytest.mark.parametrize(
    ("predicted", "truth", "words"),
    [
        ([0, 1], [2, 1], "1 pixels of the truth have labels outside 0 to 1"),
        ([9, -1], [0, 1], "2 pixels of the prediction have"),
        ([9, 0], [0, 9], "1 pixels of the truth and 1 pixels of the prediction have"),
        ([0, 0], [-2, 254], "2 pixels of the truth.*reduce_zero_label"),
    ],
)
def test_labels_that_are_no_class_are_an_error(predicted: list[int], truth: list[int], words: str) -> None:
    metric = MeanIoU(2)
    metric.update(torch.tensor([predicted]), torch.tensor([truth]))
    with pytest.raises(DataError, match=words):
        metric.compute()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 2\) and labels of shape \(4, 4\)"):
        MeanIoU(2).update(torch.zeros(2, 2).long(), torch.zeros(4, 4).long())
    with pytest.raises(ValueError, match="ignore_index 1 is one of 2 classes"):
        MeanIoU(2, ignore_index=1)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        MeanIoU(1)


def test_counts_above_two_to_the_24_are_exact() -> None:
    """Float32 counts, as in IoUMetric, would not change by adding one pixel."""
    metric = MeanIoU(2)
    metric.confusion[0, 0] = 2**24
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert float(metric.compute().mean_iou) == (2**24 + 1) / (2**24 + 2) / 2


def test_nothing_waits_for_a_device() -> None:
    """Fake tensors have no values, so that any read of one fails."""
    with FakeTensorMode():
        counts = count_pairs(torch.zeros(2, 4, 4).long(), torch.zeros(2, 4, 4).long(), 3)
    assert counts.shape == (4, 4)


def score_a_share(rank: int, expected: list[float]) -> None:
    predicted, truth = maps(11, 6, images=5)
    metric = MeanIoU(6)
    if rank == 0:
        metric.update(predicted[:4], truth[:4])
    else:
        metric.update(predicted[4], truth[4])
    assert distributed.world() == 2
    assert metric.compute().iou.tolist() == expected


@pytest.mark.distributed
def test_two_processes_with_unequal_shares_have_the_scores_of_one() -> None:
    expected = measured(*maps(11, 6, images=5), 6).iou
    assert not torch.isnan(expected).any()
    together(score_a_share, expected.tolist())


def test_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="take the argmax"):
        MeanIoU(2).update(torch.tensor([[0.99, 0.01]]), torch.tensor([[1, 0]]))
