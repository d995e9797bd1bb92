"""The fast variant: its exchange pixel by pixel, and its quality against the paper's SEEDS on photographs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from castssl.data.evaluation_views import CenterView
from castssl.metrics.partition import apart, explained_variation
from castssl.superpixels.seeds import Seeds
from castssl.superpixels.seeds_fast import Exchange, SeedsFast
from castssl.visualization.photographs import photographs

Labels = NDArray[np.int32]


@pytest.fixture(scope="module")
def views() -> Tensor:
    return torch.stack([CenterView(224)(image)[0] for _, image in photographs()])


def _mean_colors(labels: Labels, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    means = [
        image[labels == label].mean(0) if (labels == label).any() else np.zeros(3)
        for label in range(int(labels.max()) + 1)
    ]
    return np.floor(np.array(means) + 0.5).astype(np.uint8)


def _exchanged(old: Labels, image: NDArray[np.uint8], colors: NDArray[np.uint8]) -> Labels:
    """Pixel by pixel; of equal distances the pixel's own label wins, then the upper, lower and left one."""
    new: Labels = old.copy()
    for y, x in np.ndindex(*old.shape):
        around = ((y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        labels = [int(old[v, u]) for v, u in around if 0 <= v < old.shape[0] and 0 <= u < old.shape[1]]
        pixel = image[y, x].astype(int)
        far = [min(int(np.abs(colors[label, :3] - pixel).sum()), 255) for label in labels]
        new[y, x] = labels[far.index(min(far))]
    return new


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 300), st.integers(0, 1000))
def test_exchange_takes_the_nearest_of_the_labels_around(
    height: int, width: int, count: int, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, count, (height, width), dtype=np.int32)
    image = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
    exchange = Exchange(image.transpose(2, 0, 1))
    colors = exchange.colors(labels)
    assert np.array_equal(colors[:, :3], _mean_colors(labels, image))
    assert np.array_equal(exchange(labels, colors), _exchanged(labels, image, colors))


@pytest.mark.parametrize("side", [22, 23, 60])
def test_colors_of_labels_of_any_size(side: int) -> None:
    """Up to 514 pixels, one sum serves all three channels."""
    image = np.full((side, side, 3), (250, 251, 255), np.uint8)
    labels = np.zeros((side, side), np.int32)
    image[:2, :2], labels[:2, :2] = (200, 251, 252), 2
    exchange = Exchange(image.transpose(2, 0, 1))
    colors = exchange.colors(labels)
    assert colors.tolist() == [[250, 251, 255, 0], [0, 0, 0, 0], [200, 251, 252, 0]]
    assert np.array_equal(exchange(labels, colors), labels)


def test_exchange_leaves_a_flat_image_and_its_input_alone() -> None:
    labels = (np.arange(36, dtype=np.int32) // 3).reshape(6, 6)
    before = labels.copy()
    flat, noise = (
        np.full((6, 6, 3), 9, np.uint8),
        np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8),
    )
    for image in (flat, noise):
        exchange = Exchange(image.transpose(2, 0, 1))
        new = exchange(labels, exchange.colors(labels))
        assert np.array_equal(new, before) == (image is flat)
    assert np.array_equal(labels, before)


@pytest.mark.parametrize("half", [False, True])
def test_explains_more_than_the_paper_s_setting(views: Tensor, half: bool) -> None:
    views = views[..., ::2, ::2] if half else views
    paper = explained_variation(Seeds()(views), views)
    assert explained_variation(SeedsFast()(views), views).mean() > paper.mean() + 0.03
    # which neither few sweeps nor a small size alone would do
    bare = Seeds(bins=2, iterations=0, scale=0.25, prior=0)
    assert explained_variation(bare(views), views).mean() < paper.mean()


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_connected_superpixels_explain_more_than_the_paper_s_setting(views: Tensor, scale: float) -> None:
    loose, joined = (SeedsFast(scale=scale, connected=connected)(views) for connected in (False, True))
    assert 0.02 < apart(loose).mean() < 0.15
    assert not apart(joined).any()
    paper = explained_variation(Seeds()(views), views).mean()
    assert paper + 0.02 < explained_variation(joined, views).mean() < explained_variation(loose, views).mean()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(10, 300), st.booleans())
def test_labels_stay_below_capacity_at_any_size(height: int, width: int, count: int, connected: bool) -> None:
    image = np.random.default_rng(height * width).integers(0, 256, (1, 3, height, width), dtype=np.uint8)
    seeds = SeedsFast(count, connected=connected)
    segments = seeds(torch.from_numpy(image))
    assert not connected or not apart(segments).any()
    assert segments.shape == (1, height, width)
    assert 0 <= segments.min() <= segments.max() < seeds.capacity(height, width) <= count


def test_connected_superpixels_stay_so_where_labels_shrink(views: Tensor) -> None:
    assert not apart(SeedsFast(scale=1.5, connected=True)(views[:2])).any()


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_strided_images_have_the_same_labels(views: Tensor, scale: float) -> None:
    seeds = SeedsFast(scale=scale)
    strided = views.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    before = strided.clone()
    assert torch.equal(seeds(strided), seeds(views))
    assert torch.equal(strided, before)


def test_seeds_sees_an_eighth_of_the_size_where_that_has_as_many_cells() -> None:
    for size, seen in ((224, 28), (448, 56), (112, 28), (52, 26)):
        seeds = SeedsFast(196)
        seeds(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        assert list(seeds._engines) == [(seen, seen)], size


def test_says_what_it_is() -> None:
    assert repr(SeedsFast(64)) == "SeedsFast(count=64, bins=2, iterations=0, scale=0.5, connected=False)"
