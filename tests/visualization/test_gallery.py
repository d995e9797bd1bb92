"""The gallery: a row an image, as many panels as stages, the encoder as it was."""

from __future__ import annotations

import pytest
from PIL import Image

from castssl.models.create import create
from castssl.superpixels.grid import Grid
from castssl.visualization.gallery import gallery


@pytest.mark.parametrize("backend", [Grid(8), Grid(8, runs_on="worker")])
def test_every_image_has_a_row(backend: Grid) -> None:
    encoder = create("nano", image_size=32, sizes=(16, 8, 4))
    images = [Image.effect_mandelbrot((50, 40), (-2, -1, 1, 1), 20).convert("RGB")] * 2
    one = gallery(encoder, backend, images[:1], 32, "cpu")
    two = gallery(encoder, backend, images, 32, "cpu", title="two")
    assert two.width == one.width > 4 * 224
    assert two.height > 2 * 224 > one.height
    assert encoder.training
