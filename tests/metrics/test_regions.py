"""Region mIoU, precision and recall against loops over pixels, and where their ends are."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from castssl.metrics.regions import f_score, precision_recall, region_iou

shapes = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
seeds = st.integers(0, 10_000)


def drawn(shape: tuple[int, int, int], seed: int, high: int) -> Tensor:
    return torch.randint(-1, high, shape, generator=torch.Generator().manual_seed(seed))


def naive_region_iou(labels: Tensor, truth: Tensor) -> float:
    """One image, as the docstring says it."""
    known = truth.numpy() >= 0
    label, true = labels.numpy()[known], truth.numpy()[known]
    named = np.full(label.shape, -1)
    for segment in set(label.tolist()) - {-1}:
        counts = {region: int(((label == segment) & (true == region)).sum()) for region in set(true.tolist())}
        named[label == segment] = min(counts, key=lambda region: (-counts[region], region))
    ious = [_iou(named == region, true == region) for region in set(true.tolist())]
    return float(np.mean(ious)) if ious else math.nan


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@given(shape=shapes, seed=seeds, segments=st.integers(1, 6), regions=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_it_equals_its_definition(
    shape: tuple[int, int, int], seed: int, segments: int, regions: int
) -> None:
    labels, truth = drawn(shape, seed, segments), drawn(shape, seed + 1, regions)
    expected = [naive_region_iou(one, true) for one, true in zip(labels, truth, strict=True)]
    torch.testing.assert_close(region_iou(labels, truth), torch.tensor(expected), equal_nan=True)


@given(shape=shapes, seed=seeds, regions=st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_segments_that_are_the_regions_cannot_be_better(
    shape: tuple[int, int, int], seed: int, regions: int
) -> None:
    truth = drawn(shape, seed, regions).clamp(min=0)
    finer = truth * 50 + drawn(shape, seed + 1, 3).clamp(min=0)
    assert torch.equal(region_iou(truth, truth), torch.ones(shape[0]))
    assert torch.equal(region_iou(finer, truth), torch.ones(shape[0]))


def test_one_segment_is_all_background() -> None:
    truth = torch.zeros(1, 4, 5, dtype=torch.int64)
    truth[:, :2, :2] = 9
    labels = torch.zeros_like(truth)
    assert float(region_iou(labels, truth)) == pytest.approx((16 / 20 + 0) / 2)


def test_pixels_without_segment_are_missed_and_unknown_ones_left_out() -> None:
    truth = torch.tensor([[[0, 0, 1, 1]]])
    assert float(region_iou(torch.tensor([[[5, 5, 6, -1]]]), truth)) == pytest.approx((1 + 1 / 2) / 2)
    assert float(region_iou(torch.tensor([[[5, 5, 6, 6]]]), torch.tensor([[[0, 0, 1, -1]]]))) == 1
    assert region_iou(torch.zeros(1, 2, 2), torch.full((1, 2, 2), -1)).isnan().all()
    assert region_iou(torch.zeros(2, 0, 0), torch.zeros(2, 0, 0)).isnan().all()


def test_a_tie_goes_to_the_smaller_number() -> None:
    truth = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    assert float(region_iou(torch.zeros(1, 1, 2, dtype=torch.uint8), truth)) == pytest.approx((1 / 2 + 0) / 2)


def test_images_do_not_influence_each_other() -> None:
    labels, truth = drawn((6, 9, 9), 0, 12), drawn((6, 9, 9), 1, 4)
    alone = torch.cat([region_iou(labels[i : i + 1], truth[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(region_iou(labels, truth), alone)


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="region_iou"):
        region_iou(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3))


def naive_precision_recall(labels: Tensor, truth: Tensor) -> tuple[float, float]:
    """One image by sets of pixels, as the docstring defines it."""
    known = {(y, x) for y, x in np.ndindex(*truth.shape) if truth[y, x] >= 0}
    regions, segments = (
        {n: {at for at in known if maps[at] == n} for n in set(maps.flatten().tolist())}
        for maps in (truth, labels)
    )
    pairs = []
    for number in sorted(regions):
        if number > 0:
            region = regions[number]
            fits = [
                (Fraction(len(region & s), len(region | s)), -n) for n, s in segments.items() if n >= 0 and s
            ]
            best = segments[-max(fits)[1]] if fits else set()
            both = len(region & best)
            pairs.append((both / len(best) if best else 0.0, both / len(region)))
    return tuple(np.mean(pairs, 0).tolist()) if pairs else (math.nan, math.nan)


@given(shape=shapes, seed=seeds, segments=st.integers(1, 6), regions=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_precision_and_recall_equal_their_definition(
    shape: tuple[int, int, int], seed: int, segments: int, regions: int
) -> None:
    labels, truth = drawn(shape, seed, segments), drawn(shape, seed + 1, regions)
    expected = [naive_precision_recall(one, true) for one, true in zip(labels, truth, strict=True)]
    found = precision_recall(labels, truth)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), equal_nan=True)


def test_precision_and_recall_by_hand() -> None:
    truth = torch.tensor([[1, 1, 1, 0], [2, 0, 0, 0]])
    labels = torch.tensor([[4, 4, 7, 7], [7, 7, 7, 7]])
    # Region 1 is fitted by segment 4 (2 of 3 pixels), region 2 by segment 7 (1 of 6).
    expected = torch.tensor([[(1 + 1 / 6) / 2, (2 / 3 + 1) / 2]], dtype=torch.float64)
    torch.testing.assert_close(precision_recall(labels[None], truth[None]), expected)
    assert precision_recall(truth[None], truth[None]).tolist() == [[1.0, 1.0]]
    assert precision_recall(labels[None], 0 * truth[None]).isnan().all()
    with pytest.raises(ValueError, match="precision_recall: expected two maps"):
        precision_recall(labels[None], truth)


@pytest.mark.parametrize(
    ("precision", "recall", "f"),
    [
        (20.7, 18.6, 19.6),
        (24.1, 30.6, 26.96),
        (20.5, 36.1, 26.2),
        (21.1, 24.1, 22.5),
        (24.8, 33.2, 28.4),
        (26.3, 44.9, 33.2),
    ],
)
def test_the_f_scores_of_casts_table_2(precision: float, recall: float, f: float) -> None:
    assert f_score(precision, recall) == pytest.approx(f, abs=0.05)


def test_the_f_score_of_nothing() -> None:
    assert f_score(0.0, 0.0) == 0.0
