from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from castssl.data import superpixel_tree
from castssl.data.superpixel_tree import SuperpixelTree
from castssl.datasets.images import Box
from castssl.errors import ConfigError
from castssl.metrics.partition import explained_variation
from castssl.superpixels.grid import Grid
from castssl.superpixels.seeds import Seeds
from castssl.visualization.photographs import photographs
from tests.datasets.image_files import make_image

CELLS = Grid(4, runs_on="worker")
WHOLE = (0.0, 0.0, 1.0, 1.0)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def same_partition(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    """True if both put the same pixels together."""
    pairs = set(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(one)) == len(np.unique(other))


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 40), (40, 1), (2, 3), (7, 5), (33, 50), (64, 64), (20, 160)]
)
def test_any_image_has_fine_superpixels_and_a_tree(height: int, width: int) -> None:
    result = superpixel_tree.partition(noise(height, width), Seeds(10, bins=3, iterations=1))
    count = int(result.labels.max()) + 1
    assert result.labels.shape == (height, width)
    assert np.array_equal(np.unique(result.labels), np.arange(count))
    assert sorted(result.merge_order) == list(range(count - 1))
    for most in (1, 3, 10):
        view = superpixel_tree.crop(result, WHOLE, False, 16, most)
        assert (view.dtype, view.shape) == (torch.int32, (16, 16))
        seen = np.unique(view.numpy())
        assert np.array_equal(seen, np.arange(len(seen)))
        assert len(seen) <= most


def test_there_are_about_eight_times_as_many_as_a_view_has() -> None:
    result = superpixel_tree.partition(noise(96, 128), Grid(16, runs_on="worker"))
    assert len(result.merge_order) + 1 == 12 * 2 * 2  # 3 x 4 tiles of 32 x 32 pixels
    seeds = Seeds(196, bins=3, iterations=1)
    for height, width in ((375, 500), (256, 384), (224, 224)):
        count = len(superpixel_tree.partition(noise(height, width), seeds).merge_order) + 1
        assert 6 * 196 < count < 10 * 196


def naive_merges(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The partition after each merge, where every step looks at all pixels again."""
    height, width = labels.shape
    scale = 40.0 / (height * width * 8 / len(np.unique(labels))) ** 0.5
    y, x = np.mgrid[:height, :width]
    color = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).astype(np.float64)
    at = np.concatenate([color, (y * scale)[..., None], (x * scale)[..., None]], -1)

    def spread(*chosen: int) -> float:
        inside = at[np.isin(labels, chosen)]
        return float(((inside - inside.mean(0)) ** 2).sum())

    result = []
    while len(np.unique(labels)) > 1:
        pairs = {
            (min(a, b), max(a, b))
            for one, other in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1]))
            for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)
            if a != b
        }
        one, other = min(pairs, key=lambda pair: spread(*pair) - spread(pair[0]) - spread(pair[1]))
        labels = np.where(labels == other, one, labels)
        result.append(labels)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_merges_those_neighbors_whose_spread_grows_least(seed: int) -> None:
    image = make_image(seed, (16, 12))
    result = superpixel_tree.partition(image, CELLS)
    count = len(result.merge_order) + 1
    assert count > 8
    y, x = np.arange(12) * 2, np.arange(16) * 2
    cells = result.labels.astype(np.int64)
    for step, expected in enumerate(naive_merges(np.asarray(image), cells), start=1):
        merged = superpixel_tree.crop(result, WHOLE, False, 48, count - step).numpy()
        assert same_partition(merged[y * 2 + 2][:, (x * 1.5).astype(int) + 1], expected), step


def test_what_merges_is_connected() -> None:
    result = superpixel_tree.partition(noise(40, 48), CELLS)
    for most in (2, 10, 40):
        merged = superpixel_tree.crop(result, WHOLE, False, 240, most).numpy()
        assert merged.max() + 1 == most
        for label in range(most):
            mask = (merged == label).astype(np.uint8)
            assert cv2.connectedComponents(mask, connectivity=4)[0] == 2, label


def naive_crop(full: SuperpixelTree, box: Box, flipped: bool, size: int, most: int) -> NDArray[np.int64]:
    """Pixel by pixel, and merge by merge until few enough are left."""
    height, width = full.labels.shape
    view = np.empty((size, size), np.int64)
    for row in range(size):
        for column in range(size):
            y = (box[1] + (row + 0.5) / size * (box[3] - box[1])) * height
            x = (box[0] + (column + 0.5) / size * (box[2] - box[0])) * width
            at = size - 1 - column if flipped else column
            view[row, at] = full.labels[min(int(y), height - 1), min(int(x), width - 1)]
    cluster = np.arange(len(full.merge_order) + 1)
    for label in np.argsort(full.merge_order):
        if len(np.unique(cluster[view])) <= most:
            break
        cluster[cluster == cluster[label + 1]] = cluster[label]
    return np.unique(cluster[view], return_inverse=True)[1].reshape(size, size)


WHOLES = [superpixel_tree.partition(make_image(seed, (50, 36)), CELLS) for seed in range(2)]
SHARE = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(
    full=st.sampled_from(WHOLES),
    corners=st.tuples(SHARE, SHARE, SHARE, SHARE),
    flipped=st.booleans(),
    size=st.integers(1, 20),
    most=st.integers(1, 60),
)
def test_a_view_is_cut_flipped_and_merged_like_its_image(
    full: SuperpixelTree, corners: tuple[float, float, float, float], flipped: bool, size: int, most: int
) -> None:
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    box = (left, top, right, bottom)
    result = superpixel_tree.crop(full, box, flipped, size, most).numpy()
    expected = naive_crop(full, box, flipped, size, most)
    assert same_partition(result, expected)
    assert len(np.unique(result)) == len(np.unique(expected)) <= most


def test_a_view_has_as_many_as_it_may_whatever_its_size() -> None:
    full = superpixel_tree.partition(noise(256, 384), Seeds(196, bins=3, iterations=1))
    for side in (0.4, 0.6, 0.8, 1.0):
        assert len(np.unique(superpixel_tree.crop(full, (0, 0, side, side), False, 224, 196))) == 196


def test_explains_a_view_as_well_as_its_own_superpixels_do() -> None:
    seeds = Seeds()
    for _, photo in photographs()[:2]:
        view = torch.from_numpy(np.array(photo.resize((224, 224))).transpose(2, 0, 1).copy())
        computed = superpixel_tree.crop(
            superpixel_tree.partition(photo, seeds), WHOLE, False, 224, seeds.capacity(224, 224)
        )
        labels = torch.stack([computed, seeds(view[None])[0]])
        carried, direct = explained_variation(labels, view.expand(2, -1, -1, -1)).tolist()
        assert carried > direct - 0.01


@pytest.mark.parametrize("size", [(1, 1), (9, 40), (50, 36)])
def test_packs_without_loss(size: tuple[int, int]) -> None:
    full = superpixel_tree.partition(make_image(0, size), CELLS)
    packed = superpixel_tree.pack(full)
    again = superpixel_tree.unpack(packed)
    assert np.array_equal(again.labels, full.labels)
    assert np.array_equal(again.merge_order, full.merge_order)
    assert {again.labels.dtype.name, again.merge_order.dtype.name} == {"uint16"}


PACKED = superpixel_tree.pack(WHOLES[0])


@given(end=st.integers(0, len(PACKED) - 1))
def test_half_an_entry_is_refused(end: int) -> None:
    with pytest.raises(ValueError, match="bytes hold no superpixels"):
        superpixel_tree.unpack(PACKED[:end])


@given(at=st.integers(0, len(PACKED) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_never_gives_other_superpixels(at: int, bit: int) -> None:
    damaged = bytearray(PACKED)
    damaged[at] ^= 1 << bit
    try:
        result = superpixel_tree.unpack(bytes(damaged))
    except ValueError:
        return
    assert np.array_equal(result.labels, WHOLES[0].labels)  # it was a bit that fills up the last byte
    assert np.array_equal(result.merge_order, WHOLES[0].merge_order)


def test_a_large_image_is_reduced_first() -> None:
    full = superpixel_tree.partition(make_image(0, (1500, 1000)), Grid(40, runs_on="worker"))
    height, width = full.labels.shape
    assert 0.98 * superpixel_tree.PIXELS < height * width <= superpixel_tree.PIXELS
    assert abs(width / height - 1.5) < 0.01


def test_too_many_superpixels_are_refused() -> None:
    with pytest.raises(ConfigError, match="makes 90000 superpixels of one image"):
        superpixel_tree.partition(noise(300, 300), Grid(1, runs_on="worker"))


def test_tiles_share_no_label() -> None:
    labels = superpixel_tree.partition(noise(48, 64), Grid(32, runs_on="worker")).labels
    for edges, along in (((0, 16, 32, 48), 0), ((0, 16, 32, 48, 64), 1)):
        parts = [np.unique(np.take(labels, range(a, b), axis=along)) for a, b in pairwise(edges)]
        assert sum(map(len, parts)) == len(np.unique(np.concatenate(parts)))
