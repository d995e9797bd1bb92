from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from castssl.metrics.partition import (
    achievable_accuracy,
    apart,
    best_overlap,
    boundaries,
    boundary_recall,
    explained_variation,
    majority_labels,
    nestedness,
    undersegmentation_error,
)

sizes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 10_000)


def labels_of(shape: tuple[int, int, int], seed: int, *, low: int = -1, high: int = 6) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def mask_of(shape: tuple[int, int, int], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1)) > 0.5


def naive_overlap(labels: Tensor, mask: Tensor) -> float:
    best = 0.0
    for label in set(labels.flatten().tolist()) - {-1}:
        segment = labels == label
        union = int((segment | mask).sum())
        best = max(best, int((segment & mask).sum()) / union)
    return best


def naive_boundary(labels: Tensor) -> set[tuple[int, int]]:
    height, width = labels.shape
    found = set()
    for y in range(height):
        for x in range(width):
            below = y + 1 < height and labels[y + 1, x] != labels[y, x]
            right = x + 1 < width and labels[y, x + 1] != labels[y, x]
            if below or right:
                found.add((y, x))
    return found


@settings(deadline=None)
@given(sizes, seeds)
def test_overlap_is_that_of_a_loop_over_segments(shape: tuple[int, int, int], seed: int) -> None:
    labels, masks = labels_of(shape, seed), mask_of(shape, seed)
    expected = [naive_overlap(*pair) for pair in zip(labels, masks, strict=True)]
    got = best_overlap(labels, masks)
    assert got.dtype == torch.float32
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
    assert bool(((got >= 0) & (got <= 1)).all())


@settings(deadline=None)
@given(sizes, seeds)
def test_overlap_does_not_care_how_segments_are_numbered(shape: tuple[int, int, int], seed: int) -> None:
    labels, masks = labels_of(shape, seed), mask_of(shape, seed)
    renumbered = torch.randperm(50, generator=torch.Generator().manual_seed(seed))[labels]
    assert torch.equal(
        best_overlap(renumbered.where(labels >= 0, torch.tensor(-7)), masks), best_overlap(labels, masks)
    )


@settings(deadline=None)
@given(sizes, seeds)
def test_overlap_is_one_just_where_a_segment_is_the_mask(shape: tuple[int, int, int], seed: int) -> None:
    labels = labels_of(shape, seed, low=0)
    chosen = labels[:, :1, :1]
    assert best_overlap(labels, labels == chosen).tolist() == [1.0] * shape[0]
    off = (labels == chosen) ^ torch.zeros_like(labels, dtype=torch.bool).index_fill_(
        2, torch.tensor([0]), True
    )
    exact = [any(torch.equal(a == k, m) for k in torch.unique(a)) for a, m in zip(labels, off, strict=True)]
    assert (best_overlap(labels, off) == 1).tolist() == exact


def test_overlap_of_nothing_is_zero() -> None:
    labels = torch.zeros(2, 3, 3, dtype=torch.int64)
    masks = torch.zeros(2, 3, 3, dtype=torch.bool)
    masks[1] = True
    labels[1] = -1
    assert best_overlap(labels, masks).tolist() == [0, 0]


def test_a_segment_is_not_mixed_up_with_that_of_another_image() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]], [[1, 0, 0, 0]]])
    masks = torch.tensor([[[True, True, False, False]], [[True, True, False, False]]])
    assert best_overlap(labels, masks).tolist() == pytest.approx([1.0, 0.5])


def test_overlap_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="bool"):
        best_overlap(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="one shape"):
        best_overlap(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3, dtype=torch.bool))


@settings(deadline=None)
@given(sizes, st.integers(0, 3), seeds)
def test_recall_is_that_of_a_loop_over_pixels(shape: tuple[int, int, int], tolerance: int, seed: int) -> None:
    labels, truth = labels_of(shape, seed, high=1), labels_of(shape, seed + 5, low=0, high=2)
    got = boundary_recall(labels, truth, tolerance=tolerance)
    for value, mine, theirs in zip(got.tolist(), labels, truth, strict=True):
        found, wanted = naive_boundary(mine), naive_boundary(theirs)
        near = sum(
            any(abs(y - v) <= tolerance and abs(x - u) <= tolerance for v, u in found) for y, x in wanted
        )
        assert value == pytest.approx(near / len(wanted) if wanted else 1.0)
        assert {tuple(at) for at in boundaries(theirs[None])[0].nonzero().tolist()} == wanted


def test_recall_of_a_shifted_line_needs_the_tolerance() -> None:
    labels, truth = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    labels[:, :, 3:], truth[:, :, 5:] = 1, 1
    assert [float(boundary_recall(labels, truth, tolerance=t)) for t in (0, 1, 2)] == [0, 0, 1]
    with pytest.raises(ValueError, match="tolerance"):
        boundary_recall(labels, truth, tolerance=-1)


def test_pixels_apart_are_those_outside_the_largest_part() -> None:
    labels = torch.tensor([[[0, 0, 1, 0], [0, 2, 1, 1]], [[0, 0, 0, 0], [1, 1, 1, 1]]])
    assert apart(labels).tolist() == [pytest.approx(1 / 8), 0]
    # Unknown pixels neither count nor connect.
    assert apart(torch.tensor([[[3, 3, -1, 3], [-1, -1, 5, 5]]])).tolist() == [pytest.approx(1 / 5)]
    assert apart(torch.full((1, 2, 2), -1)).tolist() == [0]
    assert apart(torch.zeros(0, 2, 2, dtype=torch.int32)).shape == (0,)


@settings(deadline=None)
@given(sizes, seeds)
def test_variation_is_that_of_a_loop_over_segments(shape: tuple[int, int, int], seed: int) -> None:
    labels = labels_of(shape, seed)
    colors = torch.rand(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(seed)) * 255
    for value, label, color in zip(explained_variation(labels, colors), labels, colors, strict=True):
        kept = color[:, label >= 0].double()
        mean = kept.mean(1, keepdim=True)
        total = float(((kept - mean) ** 2).sum())
        between = 0.0
        for one in set(label.flatten().tolist()) - {-1}:
            here = color[:, label == one].double()
            between += here.shape[1] * float(((here.mean(1, keepdim=True) - mean) ** 2).sum())
        assert float(value) == pytest.approx(between / total if total > 0 else 1.0, abs=1e-4)


def test_variation_has_its_ends() -> None:
    image = torch.randint(0, 256, (1, 3, 6, 6), dtype=torch.uint8)
    assert float(explained_variation(torch.arange(36).view(1, 6, 6), image)) == pytest.approx(1.0)
    assert float(explained_variation(torch.zeros(1, 6, 6, dtype=torch.int32), image)) == pytest.approx(
        0, abs=1e-6
    )
    flat = torch.full((1, 3, 6, 6), 200, dtype=torch.uint8)
    assert float(explained_variation(torch.zeros(1, 6, 6), flat)) == 1.0
    with pytest.raises(ValueError, match="one size"):
        explained_variation(torch.zeros(1, 6, 5), flat)


@settings(deadline=None)
@given(sizes, seeds)
def test_shared_pixels_are_those_of_a_loop_over_segments_and_regions(
    shape: tuple[int, int, int], seed: int
) -> None:
    labels, truth = labels_of(shape, seed), labels_of(shape, seed + 5, high=3)
    errors, accuracies = undersegmentation_error(labels, truth), achievable_accuracy(labels, truth)
    assert errors.dtype == accuracies.dtype == torch.float32
    for error, accuracy, mine, theirs in zip(
        errors.tolist(), accuracies.tolist(), labels, truth, strict=True
    ):
        both = zip(mine.flatten().tolist(), theirs.flatten().tolist(), strict=True)
        pixels = [pair for pair in both if min(pair) >= 0]
        over, right = 0, 0
        for segment in {label for label, _ in pixels}:
            inside = [region for label, region in pixels if label == segment]
            counts = [inside.count(region) for region in set(inside)]
            over += sum(min(count, len(inside) - count) for count in counts)
            right += max(counts)
        assert error == pytest.approx(over / max(len(pixels), 1))
        assert accuracy == pytest.approx(right / len(pixels) if pixels else 1.0)


@given(shape=sizes, seed=seeds)
@settings(deadline=None)
def test_majority_labels_are_constant_on_segments_and_as_right_as_can_be(
    shape: tuple[int, int, int], seed: int
) -> None:
    labels, truth = labels_of(shape, seed), labels_of(shape, seed + 5, high=3)
    found = majority_labels(labels, truth)
    known = (labels >= 0) & (truth >= 0)
    right = ((found == truth) & known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
    expected = torch.where(known.flatten(1).any(1), achievable_accuracy(labels, truth), 0.0)
    torch.testing.assert_close(right, expected)
    for segments, given_ in zip(labels, found, strict=True):
        for label in segments.unique():
            assert len(given_[segments == label].unique()) == 1
    assert (found[labels < 0] == -1).all()


def test_a_segment_across_a_border_costs_its_smaller_side_twice() -> None:
    truth = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
    whole, crossing = torch.tensor([[[0, 0, 1, 1, 2, 2, 2, 2]], [[0, 0, 1, 1, 1, 2, 2, 2]]])[:, None]
    assert undersegmentation_error(whole, truth).tolist() == [0]
    assert achievable_accuracy(whole, truth).tolist() == [1]
    assert undersegmentation_error(crossing, truth).tolist() == [2 / 8]
    assert achievable_accuracy(crossing, truth > 0).tolist() == [7 / 8]
    for measure in (undersegmentation_error, achievable_accuracy):
        with pytest.raises(ValueError, match=f"{measure.__name__}.*one shape"):
            measure(whole, truth[0])


def test_nestedness_is_one_only_if_each_fine_segment_lies_in_one_coarse_segment() -> None:
    fine = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, -1]]])
    coarse = torch.tensor([[[0, 0, 0, 0], [0, 1, 0, 0]]])
    assert nestedness(fine, torch.zeros_like(fine)).tolist() == [1]
    assert nestedness(fine, coarse).tolist() == pytest.approx([6 / 7])
    # One coarse segment for all holds any fine ones; the other way round it does not.
    assert nestedness(torch.zeros_like(fine), coarse).tolist() == [7 / 8]


def test_the_edge_of_unknown_pixels_is_no_boundary() -> None:
    labels, truth = torch.zeros(1, 10, 10).long(), torch.zeros(1, 10, 10).long()
    truth[:, :, :5] = -1
    assert boundary_recall(labels, truth).item() == 1
    truth[:, 5:, 5:] = 1
    assert boundary_recall(labels, truth).item() == 0


def test_variation_of_small_and_of_wrong_numbers() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]]])
    assert explained_variation(labels, torch.tensor([[[[0, 0, 1e-7, 1e-7]]]])).item() == pytest.approx(1)
    assert explained_variation(labels, torch.tensor([[[[0, 0, 1, torch.nan]]]])).isnan().all()


def test_parts_of_labels_of_any_number() -> None:
    assert apart(torch.tensor([[[0, 2**32, 0]]])).item() == pytest.approx(1 / 3)
    assert apart(torch.tensor([[[-1, 127, 127]]], dtype=torch.int8)).item() == 0
