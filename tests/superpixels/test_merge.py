from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from castssl.superpixels.merge import COLOR, KINDS, NEIGHBORS, PLACE, RANDOM, merge, neighbors
from castssl.superpixels.seeds import Seeds

seeds = st.integers(0, 10_000)


def grid(rows: int, columns: int, cell: int) -> Tensor:
    cells = torch.arange(rows * columns).view(rows, columns)
    return cells.repeat_interleave(cell, 0).repeat_interleave(cell, 1)


def painted(segments: Tensor, seed: int = 0, channels: int = 3) -> Tensor:
    """Noise, so that no two distances are equal."""
    shape = (channels, *segments.shape)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def at_random(segments: Tensor, size: int, seed: int) -> Tensor:
    return merge(painted(segments), segments, [size], by=RANDOM, seed=seed)[0]


def points(image: Tensor, segments: Tensor, *, place: bool) -> list[np.ndarray]:
    """The mean of each superpixel, a pixel at a time."""
    lab = cv2.cvtColor(image.permute(1, 2, 0).numpy().astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    height, width = segments.shape
    where = np.array([[(y, x) for x in range(width)] for y in range(height)], np.float64)

    def unit(values: np.ndarray) -> np.ndarray:
        spread = np.mean([np.sum((v - values.mean((0, 1))) ** 2) for row in values for v in row])
        return np.asarray((values - values.mean((0, 1))) / np.sqrt(spread))

    values = np.concatenate([unit(lab.astype(np.float64)), unit(where)], 2) if place else lab
    return [values[segments.numpy() == one].mean(0) for one in sorted(set(segments.flatten().tolist()))]


def ward(image: Tensor, segments: Tensor, size: int, by: str) -> set[frozenset[int]]:
    """Ward's clustering by its definition: merge those two sets whose sum of squares grows least."""
    means = points(image, segments, place=by == PLACE)
    groups = [frozenset([one]) for one in range(len(means))]
    beside = {tuple(pair) for pair in neighbors(segments.numpy()).tolist()}

    def squares(group: frozenset[int]) -> float:
        rows = np.array([means[one] for one in group])
        return float(((rows - rows.mean(0)) ** 2).sum())

    def near(a: frozenset[int], b: frozenset[int]) -> bool:
        return by != NEIGHBORS or any((min(i, j), max(i, j)) in beside for i in a for j in b)

    while len(groups) > size:
        pairs = [(a, b) for i, a in enumerate(groups) for b in groups[:i] if near(a, b)]
        one, other = min(pairs, key=lambda pair: squares(pair[0] | pair[1]) - sum(map(squares, pair)))
        groups = [group for group in groups if group not in (one, other)] + [one | other]
    return set(groups)


def groups_of(labels: Tensor, segments: Tensor) -> set[frozenset[int]]:
    pairs = set(zip(labels.flatten().tolist(), segments.flatten().tolist(), strict=True))
    return {frozenset(s for label, s in pairs if label == one) for one in {label for label, _ in pairs}}


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([COLOR, PLACE, NEIGHBORS]), seeds)
def test_it_is_wards_clustering(rows: int, columns: int, by: str, seed: int) -> None:
    segments = grid(rows, columns, 2)
    image, sizes = painted(segments, seed), [6, 3, 2]
    labels = merge(image, segments, sizes, by=by)
    for level, size in zip(labels, sizes, strict=True):
        assert groups_of(level, segments) == ward(image, segments, size, by)


@pytest.mark.parametrize("by", KINDS)
def test_levels_are_nested_unions_of_superpixels_without_gaps(by: str) -> None:
    image = painted(torch.empty(48, 40), 3)
    segments = Seeds(count=60)(image[None])[0]
    sizes = [32, 16, 8, 1]
    labels = merge(image, segments, sizes, by=by)
    assert (labels.dtype, labels.shape) == (torch.int32, (4, 48, 40))
    for fine, coarse, size in zip([segments, *labels], labels, sizes, strict=False):
        assert torch.unique(coarse).tolist() == list(range(size))
        assert all(torch.unique(coarse[fine == label]).numel() == 1 for label in torch.unique(fine))
    assert torch.equal(labels[1], merge(image, segments, [16], by=by)[0])


def test_numbers_of_superpixels_may_have_gaps() -> None:
    segments = grid(3, 3, 2)
    image = painted(segments)
    for by in KINDS:
        assert torch.equal(merge(image, segments * 7 + 5, [4], by=by), merge(image, segments, [4], by=by))


@pytest.mark.parametrize("by", KINDS)
def test_fewer_superpixels_than_segments_stay_as_they_are(by: str) -> None:
    for segments in (torch.zeros(1, 1, dtype=torch.int32), grid(1, 3, 1), torch.full((2, 2), -1)):
        labels = merge(painted(segments), segments, [9, 5], by=by)
        assert labels.tolist() == [segments.tolist()] * 2
    assert merge(torch.zeros(3, 0, 4), torch.zeros(0, 4, dtype=torch.int64), [2], by=by).shape == (1, 0, 4)
    assert merge(painted(segments), segments, [], by=by).shape == (0, 2, 2)


def test_pixels_without_a_superpixel_stay_so() -> None:
    segments = torch.tensor([[5, 5, -3, 9, 2]])
    image = torch.tensor([[0, 0, 255, 9, 90]]).expand(3, 1, 5).to(torch.uint8)
    for by in (COLOR, PLACE, NEIGHBORS):
        assert merge(image, segments, [1], by=by).tolist() == [[[0, 0, -1, 0, 0]]]
    assert merge(image, segments, [2], by=COLOR).tolist() == [[[1, 1, -1, 1, 0]]]
    # Only 9 and 2 touch, but the islands are nearer in color.
    assert merge(image, segments, [2], by=NEIGHBORS).tolist() == [[[1, 1, -1, 1, 0]]]


def test_only_neighbors_merge() -> None:
    segments = grid(1, 3, 2)
    image = (segments % 2 * 200).expand(3, -1, -1).to(torch.uint8)
    distant, touching = (merge(image, segments, [2], by=by)[0, 0].tolist() for by in (COLOR, NEIGHBORS))
    assert distant == [0, 0, 1, 1, 0, 0]
    assert touching in ([0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_images_than_rgb_are_compared_by_their_values(channels: int) -> None:
    segments = grid(1, 4, 2)
    level = torch.tensor([0.0, 0.9, 0.1, 1.0])[segments]
    image = level.expand(channels, -1, -1) * 60000
    for by in (COLOR, PLACE):
        assert merge(image, segments, [2], by=by)[0, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_an_image_of_one_color_is_divided_by_place() -> None:
    segments = grid(1, 4, 2)
    labels = merge(torch.zeros(3, *segments.shape, dtype=torch.uint8), segments, [2], by=PLACE)
    assert groups_of(labels[0], segments) == {frozenset([0, 1]), frozenset([2, 3])}


def test_what_it_cannot_merge_is_refused() -> None:
    segments = grid(2, 2, 1)
    image = painted(segments)
    with pytest.raises(ValueError, match="of one size"):
        merge(image[None], segments[None], [2])
    with pytest.raises(ValueError, match="sizes of 1 or more"):
        merge(image, segments, [2, 0])
    with pytest.raises(ValueError, match="'colour'"):
        merge(image, segments, [2], by="colour")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 12), seeds)
def test_merging_at_random_leaves_k_connected_unions(rows: int, columns: int, k: int, seed: int) -> None:
    segments = grid(rows, columns, 2)
    merged = at_random(segments, k, seed)
    assert torch.unique(merged).tolist() == list(range(min(k, rows * columns)))
    for label in torch.unique(segments):
        assert torch.unique(merged[segments == label]).numel() == 1
    assert all(connected(merged == label) for label in torch.unique(merged))


def connected(region: Tensor) -> bool:
    todo = {tuple(pixel) for pixel in region.nonzero().tolist()}
    front = [todo.pop()]
    while front:
        y, x = front.pop()
        for step in {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & todo:
            todo.remove(step)
            front.append(step)
    return not todo


def test_merging_at_random_is_seeded_and_touches_no_global_state() -> None:
    segments = grid(7, 7, 2)
    random.seed(1)
    torch.manual_seed(1)
    first = at_random(segments, 5, 3)
    random.seed(2)
    torch.manual_seed(2)
    before = random.getstate(), torch.get_rng_state()
    assert torch.equal(first, merge(torch.zeros(3, 14, 14), segments, [5], by=RANDOM, seed=3)[0])
    assert before[0] == random.getstate()
    assert torch.equal(before[1], torch.get_rng_state())
    assert any(not torch.equal(first, at_random(segments, 5, other)) for other in range(4, 8))


def test_merging_at_random_draws_regions_whatever_their_border() -> None:
    # One long segment above nine small ones.
    segments = torch.cat([torch.zeros(1, 18, dtype=torch.int64), grid(1, 9, 2) + 1])
    survived = 0
    for seed in range(1000):
        merged = at_random(segments, 9, seed)
        survived += int((merged == merged[0, 0]).sum()) == 18
    # It is drawn with chance 1/10, and each other draws it with chance 1/3 (ends: 1/2).  Had borders been
    # drawn, of which it has 9 of 17, it would survive less often.
    expected = 0.9 * (7 / 9 * 2 / 3 + 2 / 9 * 1 / 2)
    assert survived / 1000 == pytest.approx(expected, abs=0.04)


def test_merging_at_random_stops_at_islands_and_keeps_holes() -> None:
    segments = torch.tensor([[5, 5, -3, 9, 2]])
    assert at_random(segments, 1, 0).tolist() == [[1, 1, -1, 0, 0]]
    assert torch.unique(at_random(segments.int(), 9, 0)).tolist() == [-1, 0, 1, 2]
