"""Boundary F-score and boundary IoU against loops over points and masks, and surface-distance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from castssl.errors import DataError
from castssl.metrics.boundary import (
    BoundaryF,
    BoundaryIoU,
    BoundaryScores,
    count_bands,
    count_boundaries,
    extend_labels,
    f_scores,
    tolerance_pixels,
)
from castssl.testing.processes import together
from recipes.benchmarks.boundary import naive_bands, naive_boundaries, naive_near

seeds = st.integers(0, 10_000)
sides = st.integers(2, 20)
IGNORE = 255
SQUARE = torch.zeros(40, 40, dtype=torch.int64)
SQUARE[10:30, 10:30] = 1


def blocks(seed: int, classes: int, height: int, width: int, ignored: float = 0.0) -> tuple[Tensor, Tensor]:
    """Maps of a few rectangles, which differ a little, with rectangles without labels in the truth."""
    draw = np.random.default_rng(seed)

    def corner(limit: int) -> slice:
        first = int(draw.integers(limit))
        return slice(first, first + 1 + int(draw.integers(limit)))

    truth = np.zeros((height, width), np.int64)
    for _ in range(4):
        truth[corner(height), corner(width)] = draw.integers(classes)
    predicted = np.roll(truth, tuple(draw.integers(-2, 3, 2)), (0, 1))
    predicted[corner(height), corner(width)] = draw.integers(classes)
    if draw.random() < ignored:
        for value in (-1, IGNORE):
            truth[corner(height), corner(width)] = value
    return torch.from_numpy(predicted), torch.from_numpy(truth)


@given(
    seed=seeds, classes=st.integers(1, 130), height=sides, width=sides, ratio=st.sampled_from([0, 0.1, 0.3])
)
@settings(deadline=None, max_examples=60)
def test_points_and_matches_are_those_of_the_definition(
    seed: int, classes: int, height: int, width: int, ratio: float
) -> None:
    predicted, truth = blocks(seed, classes, height, width, ignored=0.6)
    radius, labeled = tolerance_pixels(height, width, ratio), (truth != -1) & (truth != IGNORE)
    extended, known = extend_labels(truth, labeled, radius)
    got = count_boundaries(predicted, truth, classes, ratio=ratio)
    assert torch.equal(got, naive_boundaries(predicted, extended, classes, known, radius))


@given(seed=seeds, height=sides, width=sides, distance=st.integers(0, 4))
@settings(deadline=None, max_examples=40)
def test_pixels_without_a_label_take_the_class_of_a_nearest_one(
    seed: int, height: int, width: int, distance: int
) -> None:
    _, truth = blocks(seed, 5, height, width, ignored=1)
    labeled = (truth != -1) & (truth != IGNORE)
    extended, known = extend_labels(truth, labeled, distance)
    places = [tuple(at) for at in labeled.nonzero().tolist()]
    for row in range(height):
        for column in range(width):
            squares = {at: (at[0] - row) ** 2 + (at[1] - column) ** 2 for at in places}
            least = min(squares.values(), default=math.inf)
            assert bool(known[row, column]) == (least <= distance**2)
            nearest = {int(truth[at]) for at, square in squares.items() if square == least}
            assert not known[row, column] or int(extended[row, column]) in nearest


@given(seed=seeds, classes=st.integers(1, 9), height=sides, width=sides, distance=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_bands_are_what_erosion_takes_away(
    seed: int, classes: int, height: int, width: int, distance: int
) -> None:
    predicted, truth = blocks(seed, classes, height, width, ignored=0.6)
    labeled = (truth != -1) & (truth != IGNORE)
    ratio = distance / math.hypot(height, width)
    expected = naive_bands(predicted, truth, classes, labeled, distance)
    assert torch.equal(count_bands(predicted, truth, classes, ratio=ratio), expected)


@given(seed=seeds, threshold=st.integers(0, 4))
@settings(deadline=None, max_examples=40)
def test_matches_are_those_of_surface_distance(seed: int, threshold: int) -> None:
    """Its surface elements are corners of pixels, too; its sum of lengths is replaced by a count."""
    surface_distance = pytest.importorskip(
        "surface_distance", reason="pip install surface-distance, to compare with its distances"
    )
    maps = [torch.nn.functional.pad(labels, (3, 3, 3, 3)) for labels in blocks(seed, 2, 17, 23)]
    if not all(labels.any() for labels in maps):
        return
    found = surface_distance.compute_surface_distances(*(labels.bool().numpy() for labels in maps), (1, 1))
    expected = []
    for way in ("gt_to_pred", "pred_to_gt"):  # Its "truth" is the first mask, which is the prediction here.
        distances = found[f"distances_{way}"]
        expected += [len(distances), int((distances <= threshold).sum())]
    ratio = threshold / math.hypot(*maps[0].shape)
    for row in count_boundaries(maps[0], maps[1], 2, ratio=ratio):
        assert row.tolist() == expected


def scores_of(predicted: Tensor, truth: Tensor, classes: int = 3, ratio: float = 0.0075) -> BoundaryScores:
    metric = BoundaryF(classes, ratio=ratio)
    metric.update(predicted[None], truth[None])
    result: BoundaryScores = metric.compute()
    return result


def test_the_tolerance_is_a_share_of_the_diagonal_rounded_up() -> None:
    assert [tolerance_pixels(*size) for size in ((512, 512), (300, 400), (240, 320), (64, 64))] == [
        6,
        4,
        3,
        1,
    ]
    assert tolerance_pixels(9, 9, 0) == 0
    metric = BoundaryF(3)
    metric.update(SQUARE[None], SQUARE[None])
    wide = torch.zeros(1, 300, 400, dtype=torch.int64)
    metric.update(wide, wide)
    assert float(metric.compute().tolerance) == (1 + 4) / 2


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (1, 1.0), (2, 1.0), (3, 38 / 76)])
def test_a_boundary_counts_within_the_tolerance(shift: int, expected: float) -> None:
    """Of a shifted square, two sides stay on the lines of the true ones."""
    ratio = 2 / math.hypot(40, 40)
    counts = count_boundaries(SQUARE.roll(shift, 0), SQUARE, 2, ratio=ratio)
    assert counts[:, 0].tolist() == [80] * 3
    got = scores_of(SQUARE.roll(shift, 0), SQUARE, ratio=ratio)
    if shift < 3:
        assert all(float(value) == expected for value in got[:4])
    else:
        # The upper and the lower side are too far away, apart from where they meet the other two.
        assert float(got.class_image) == pytest.approx(float(counts[0, 1]) / 80)
        assert int(counts[0, 1]) < 50


def test_the_border_of_the_image_is_no_boundary_for_f_but_one_for_iou() -> None:
    whole = torch.zeros(20, 20, dtype=torch.int64)
    assert int(count_boundaries(whole, whole, 2).sum()) == 0
    bands = count_bands(whole, whole, 2)
    assert bands.tolist() == [[20 * 20 - 18 * 18] * 3, [0] * 3]
    column = whole.clone()
    column[:, 0] = 1  # The mask touches three borders: its boundary is the line of 19 corners beside it.
    assert count_boundaries(column, column, 2)[1].tolist() == [19] * 4


def test_images_and_classes_without_a_boundary_have_no_score() -> None:
    whole = torch.zeros_like(SQUARE)
    none = scores_of(whole, whole)
    assert all(math.isnan(value) for value in none[:4])
    assert all(float(value) == 0 for value in scores_of(whole, SQUARE)[:4])
    assert all(float(value) == 0 for value in scores_of(SQUARE, whole)[:4])
    metric = BoundaryF(3)
    metric.update(torch.stack([whole, SQUARE]), torch.stack([whole, SQUARE]))
    found = metric.compute()
    assert all(float(value) == 1 for value in found[:4])
    assert math.isnan(found.f[2])
    assert int(count_boundaries(torch.zeros(1, 9).long(), torch.ones(1, 9).long(), 2).sum()) == 0


def test_per_image_and_pooled_scores_and_those_of_classes_and_of_changes_differ() -> None:
    """By hand: right in a large image, and in a second one the classes are exchanged."""
    small, swapped = SQUARE[8:32, 8:32], 2 - 2 * SQUARE[8:32, 8:32]
    metric = BoundaryF(3)
    metric.update(SQUARE[None], SQUARE[None])
    metric.update(swapped[None], small[None])
    found = metric.compute()
    assert float(found.any_image) == float(found.any_pooled) == 1
    # In the second image, class 0 has the same boundary from its other side; 1 and 2 are in one map each.
    assert float(found.class_image) == pytest.approx((1 + 1 / 3) / 2, abs=1e-9)
    assert found.f.tolist() == pytest.approx([1, 2 / 3, 0])
    assert float(found.class_pooled) == pytest.approx((1 + 2 / 3) / 3)


def test_a_band_without_labels_hides_no_boundary_and_a_large_area_judges_none() -> None:
    band = SQUARE.clone()
    band[8:32, 8:32], band[12:28, 12:28] = IGNORE, 1
    ratio = 3 / math.hypot(40, 40)
    right, nothing = (scores_of(maps, band, ratio=ratio) for maps in (SQUARE, torch.zeros_like(SQUARE)))
    assert float(right.class_image) == 1
    assert float(nothing.class_image) == 0
    area = torch.zeros_like(SQUARE)
    area[8:32, 8:32] = -1
    assert count_boundaries(SQUARE, area, 2, ratio=ratio).sum() == 0
    assert count_boundaries(SQUARE, torch.full_like(SQUARE, -1), 2).sum() == 0
    assert count_bands(SQUARE, torch.full_like(SQUARE, -1), 2).sum() == 0
    far = naive_near(np.array([[0, 0], [9, 9]]), np.array([[9, 8]]), 1)
    assert far.tolist() == [False, True]


def test_boundary_iou_counts_the_pixels_of_all_images() -> None:
    metric = BoundaryIoU(3)
    metric.update(torch.stack([SQUARE, SQUARE]), torch.stack([SQUARE, SQUARE.roll(1, 0)]))
    got = metric.compute()
    counts = naive_bands(SQUARE, SQUARE, 3) + naive_bands(SQUARE, SQUARE.roll(1, 0), 3)
    expected = counts[:, 2] / (counts[:, 0] + counts[:, 1] - counts[:, 2])
    torch.testing.assert_close(got, expected.double(), equal_nan=True, rtol=1e-6, atol=0)
    assert 0 < float(got[1]) < 1
    assert math.isnan(got[2])


def test_wrong_arguments_are_refused() -> None:
    for metric in (BoundaryF(2), BoundaryIoU(2)):
        with pytest.raises(ValueError, match=r"shape \(1, 2, 2\) and labels of shape \(2, 2\)"):
            metric.update(torch.zeros(1, 2, 2).long(), torch.zeros(2, 2).long())
        with pytest.raises(DataError, match="1 pixels of the truth have labels outside 0 to 1"):
            metric.update(torch.tensor([[[0, 1]]]), torch.tensor([[[2, -1]]]))
        with pytest.raises(DataError, match="2 pixels of the prediction have labels"):
            metric.update(torch.tensor([[[-1, 9]]]), torch.tensor([[[0, 255]]]))
    with pytest.raises(ValueError, match=r"expected both \(H, W\)"):
        count_boundaries(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long(), 2)


def test_f_of_counts() -> None:
    counts = torch.tensor([[4, 3, 2, 1], [4, 0, 2, 0], [0, 0, 2, 0], [0, 0, 0, 0]])
    assert f_scores(counts)[:3].tolist() == [2 * 0.75 * 0.5 / 1.25, 0, 0]
    assert math.isnan(f_scores(counts)[3])


def measured(rows: slice) -> list[list[float]]:
    metrics = BoundaryF(6, ratio=0.05), BoundaryIoU(6)
    for seed in range(5)[rows]:
        for metric in metrics:
            metric.update(*(labels[None] for labels in blocks(seed, 6, 19, 23, ignored=0.5)))
    f: BoundaryScores = metrics[0].compute()
    iou: Tensor = metrics[1].compute()
    return [torch.stack(f[:4]).tolist(), f.f.nan_to_num().tolist(), iou.nan_to_num().tolist()]


def score_a_share(rank: int, expected: list[list[float]]) -> None:
    assert measured(slice(0, 4) if rank == 0 else slice(4, 5)) == expected


@pytest.mark.distributed
def test_two_processes_with_unequal_shares_have_the_scores_of_one() -> None:
    expected = measured(slice(None))
    assert all(0 < value < 1 for value in expected[0])
    together(score_a_share, expected)


@pytest.mark.parametrize("metric", [BoundaryF, BoundaryIoU])
def test_narrow_labels_are_compared_as_they_are(metric: type[BoundaryF] | type[BoundaryIoU]) -> None:
    """In uint8, torch takes 0 for 256, 44 for 300 and 255 for -1."""
    truth = torch.zeros(1, 20, 20, dtype=torch.uint8)
    truth[:, 10:] = 1
    predicted = truth.clone()
    predicted[:, :5] = 1
    found = []
    for dtype in (torch.int64, torch.uint8, torch.int16, torch.uint16):
        measured = metric(3, ignore_index=256)
        measured.update(predicted.to(dtype), truth.to(dtype))
        found.append(measured.compute())
    assert all(torch.equal(torch.as_tensor(one[0]), torch.as_tensor(found[0][0])) for one in found)
    with pytest.raises(DataError, match="outside 0 to 2"):
        metric(3, ignore_index=-1).update(predicted, truth.masked_fill(truth == 0, 255))


def test_what_is_no_label_map_is_refused() -> None:
    maps = torch.zeros(1, 8, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="ignore_index 255 is one of 300 classes"):
        BoundaryF(300).update(maps, maps)
    with pytest.raises(ValueError, match=r"whole numbers, got torch\.float32"):
        BoundaryF(3).update(maps.float(), maps)
