from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from castssl_slic.repair import anchors, fill, join, repair, runs, spread

filters: Any = import_module("skimage.filters")
measure: Any = import_module("skimage.measure")
sides = st.integers(1, 14)
seeds = st.integers(0, 9999)


def blobs(height: int, width: int, seed: int, count: int = 7) -> Tensor:
    """Two images of ``count`` labels, each in many parts."""
    draw = np.random.default_rng(seed)
    rough = filters.gaussian(draw.normal(size=(2, count, height, width)), (0, 0, 1, 1))
    return torch.from_numpy(rough.argmax(1))


def parts(labels: Tensor) -> list[int]:
    """How many 4-connected parts each label of one image (H, W) has, by scikit-image."""
    return [
        int(measure.label(labels.numpy() == label, connectivity=1).max())
        for label in np.unique(labels).tolist()
    ]


@settings(deadline=None)
@given(sides, sides, seeds, st.sampled_from((0.0, 3.0, 99.0)), st.integers(0, 3))
def test_every_label_becomes_one_part(
    height: int, width: int, seed: int, smallest: float, sweeps: int
) -> None:
    labels = blobs(height, width, seed)
    colors = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    mended = repair(labels, colors, count=7, smallest=smallest, sweeps=sweeps)
    for before, after in zip(labels, mended, strict=True):
        assert set(parts(after)) == {1}
        assert set(np.unique(after).tolist()) <= set(np.unique(before).tolist())
        if not smallest:
            assert set(np.unique(after).tolist()) == set(np.unique(before).tolist())


@settings(deadline=None)
@given(sides, sides, seeds)
def test_what_is_connected_and_large_stays(height: int, width: int, seed: int) -> None:
    first = blobs(height, width, seed)
    components = torch.stack(
        [torch.from_numpy(measure.label(image.numpy() + 1, connectivity=1)) for image in first]
    )
    colors = torch.zeros(2, 3, height, width)
    count = int(components.max()) + 1
    assert torch.equal(repair(components, colors, count=count, smallest=0, sweeps=height * width), components)


@settings(deadline=None)
@given(sides, sides, seeds)
def test_sweeps_reach_just_the_part_of_an_anchor(height: int, width: int, seed: int) -> None:
    labels = blobs(height, width, seed)
    start = anchors(labels, 7)
    across, down = runs(labels, -1), runs(labels, -2)
    settled = start
    for _ in range(height * width):
        settled = spread(spread(settled, across, -1), down, -2)
    for image, at, reached in zip(labels, start, settled, strict=True):
        assert sorted(image[at].tolist()) == np.unique(image).tolist(), "a label has one anchor"
        component = measure.label(image.numpy() + 1, connectivity=1)
        assert np.array_equal(reached.numpy(), np.isin(component, component[at.numpy()]))


def test_the_anchor_is_the_first_of_the_nearest_to_the_centroid() -> None:
    labels = torch.tensor([[[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]])
    assert anchors(labels, 3).nonzero().tolist() == [[0, 1, 1], [0, 1, 3]]


def test_a_pixel_joins_the_likest_of_its_neighbors() -> None:
    labels = torch.tensor([[[0, 0, 1, 2, 2]]])
    settled = torch.tensor([[[True, True, False, True, True]]])
    for color, expected in ((0.1, 0), (0.8, 2)):
        colors = torch.tensor([0.0, 0.0, color, 1.0, 1.0]).expand(1, 3, 1, -1)
        joined, done = join(labels, settled, colors)
        assert joined.tolist() == [[[0, 0, expected, 2, 2]]]
        assert bool(done.all())


def test_the_rest_joins_the_nearest_of_its_row_then_of_its_column() -> None:
    labels = torch.tensor([[[3, 9, 9, 9, 4], [9, 9, 9, 9, 9]]])
    settled = torch.tensor([[[True, False, False, False, True], [False] * 5]])
    labels, settled = fill(labels, settled, -1)
    assert labels[0, 0].tolist() == [3, 3, 3, 4, 4]
    assert settled.tolist() == [[[True] * 5, [False] * 5]]
    labels, settled = fill(labels, settled, -2)
    assert labels[0].tolist() == [[3, 3, 3, 4, 4]] * 2
    assert bool(settled.all())
