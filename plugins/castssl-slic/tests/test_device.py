from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2lab
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from castssl.testing import samples
from castssl_slic.device import Cells, DeviceSlic, assign, fit
from castssl_slic.lab import UNIT, lab

measure: Any = import_module("skimage.measure")
SHORT = DeviceSlic(12, iterations=2, sweeps=1)


def naive(colors: Tensor, cells: Cells, compactness: float, rounds: int) -> Tensor:
    """SLIC of one image (3, H, W), pixel by pixel in double precision, by the paper's algorithm 1."""
    image = (colors.double() / UNIT).numpy()
    height, width = image.shape[1:]
    home = {(y, x): (y // cells.height, x // cells.width) for y, x in np.ndindex(height, width)}
    mine, centers = dict(home), {}
    spacing = (cells.height * cells.width) ** 0.5
    for _ in range(rounds):
        for cell in set(mine.values()):
            own = [at for at, label in mine.items() if label == cell]
            centers[cell] = np.mean([[*image[:, y, x], y, x] for y, x in own], 0)
        for (y, x), (row, column) in home.items():
            best = np.inf
            for cell in sorted(centers, key=lambda cell, at=(row, column): cell != at):  # type: ignore[misc]
                if abs(cell[0] - row) > 1 or abs(cell[1] - column) > 1:
                    continue
                mean = centers[cell]
                color = ((image[:, y, x] - mean[:3]) ** 2).sum()
                place = (y - mean[3]) ** 2 + (x - mean[4]) ** 2
                distance = (color + (compactness / spacing) ** 2 * place) ** 0.5
                if distance < best:
                    best, mine[y, x] = distance, cell
    labels = [mine[at][0] * cells.columns + mine[at][1] for at in np.ndindex(height, width)]
    return torch.tensor(labels).view(height, width)


@pytest.mark.parametrize("size", [(12, 12), (11, 17), (5, 3), (1, 9)])
@pytest.mark.parametrize("compactness", [2.0, 20.0])
def test_assignment_is_that_of_a_loop_over_pixels(size: tuple[int, int], compactness: float) -> None:
    images = samples.pixels(2, *size, seed=3)
    cells = fit(*size, 9)
    got = assign(lab(images), cells, compactness=compactness, iterations=4)
    for colors, labels in zip(lab(images), got, strict=True):
        assert torch.equal(labels, naive(colors, cells, compactness, 4))


def test_colors_are_those_of_scikit_image() -> None:
    images = torch.randint(256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[0, :, 0, 0], images[0, :, 0, 1] = 0, 255
    expected = rgb2lab(images.permute(0, 2, 3, 1).numpy())
    assert np.abs(lab(images).permute(0, 2, 3, 1).numpy() / UNIT - expected).max() < 0.6 / UNIT


@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 2000))
def test_the_grid_covers_the_image_with_no_more_cells_than_asked(height: int, width: int, count: int) -> None:
    rows, columns, tall, wide = fit(height, width, count)
    assert 1 <= rows * columns <= count
    assert (rows - 1) * tall < height <= rows * tall
    assert (columns - 1) * wide < width <= columns * wide
    assert DeviceSlic(count).capacity(height, width) == rows * columns


def test_the_published_models_get_the_superpixels_they_have_tokens_for() -> None:
    assert DeviceSlic().capacity(224, 224) == 196
    assert DeviceSlic(1024).capacity(512, 512) == 1024


@pytest.mark.parametrize("size", [(64, 64), (65, 81), (31, 7)])
def test_superpixels_are_connected(size: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (1, 3, *size), generator=draw, dtype=torch.uint8)
    for image in DeviceSlic(30, compactness=5)(torch.cat([samples.pixels(2, *size), noise])):
        assert measure.label(image.numpy() + 1, connectivity=1).max() == len(np.unique(image))


def test_an_image_of_one_color_becomes_the_grid() -> None:
    labels = DeviceSlic(16)(torch.full((1, 3, 32, 32), 200, dtype=torch.uint8))[0]
    cell = torch.arange(32) // 8
    assert torch.equal(labels.long(), cell[:, None] * 4 + cell)


def test_reads_nothing_back_and_has_static_shapes() -> None:
    images = samples.pixels(2, 33, 47)
    with FakeTensorMode() as mode:
        out = SHORT(mode.from_tensor(images))
    assert out.shape == (2, 33, 47)
    assert out.dtype == torch.int32


def test_compiles_in_one_graph() -> None:
    images = samples.pixels(2, 33, 47)
    torch._dynamo.reset()
    try:
        compiled = torch.compile(SHORT.__call__, fullgraph=True, backend="eager")
        assert torch.equal(compiled(images), SHORT(images))
    finally:
        torch._dynamo.reset()


def test_autocast_changes_nothing() -> None:
    images = samples.pixels(2, 33, 47)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = SHORT(images)
    assert torch.equal(mixed, SHORT(images))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_device_nothing_waits_and_labels_are_almost_those_of_the_cpu() -> None:
    images = samples.pixels(4, 97, 120)
    backend = DeviceSlic(60)
    there = images.cuda()
    backend(there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        labels = backend(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(labels, backend(there))
    assert (labels.cpu() == backend(images)).float().mean() > 0.99
