"""The gallery and the comparison: a row per image, as many panels as segmentations, the encoder as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.datasets.open import open_images
from castssl.models.create import create
from castssl.superpixels.grid import Grid
from castssl.visualization.gallery import COMPARED, Comparison, examples, gallery


@pytest.mark.parametrize("backend", [Grid(8), Grid(8, runs_on="worker")])
def test_every_image_has_a_row(backend: Grid) -> None:
    encoder = create("nano", image_size=32, sizes=(16, 8, 4))
    images = [Image.effect_mandelbrot((50, 40), (-2, -1, 1, 1), 20).convert("RGB")] * 2
    one = gallery(encoder, backend, images[:1], 32, "cpu")
    two = gallery(encoder, backend, images, 32, "cpu")
    assert two.width == one.width > 4 * 224
    assert two.height > 2 * 224 > one.height
    assert encoder.training


def test_a_comparison_has_a_panel_for_each_segmentation_and_size() -> None:
    encoder = create("nano", image_size=32, sizes=(16, 8, 4, 2))
    image = Image.effect_mandelbrot((50, 40), (-2, -1, 1, 1), 20).convert("RGB")
    picture = Comparison(encoder, Grid(16), [image] * 2, 64, "cpu")
    before = np.asarray(picture())
    assert before.shape[0] > 2 * COMPARED
    assert 9 * COMPARED > before.shape[1] > 8 * COMPARED
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.copy_(torch.randn_like(weight))
    after = np.asarray(picture())
    changed = np.flatnonzero((before != after).any((0, 2)))
    assert {(column - 16) // (COMPARED + 8) for column in changed.tolist()} == {4, 7}
    assert encoder.training


def test_an_encoder_without_pooling_is_compared_by_nothing() -> None:
    encoder = create("nano", image_size=32, sizes=(16, 16, 16, 16))
    assert Comparison(encoder, Grid(8), examples(None)[:1], 32, "cpu")().width < 3 * COMPARED


def test_examples_are_held_out_images_and_photographs(image_folder: Path) -> None:
    held_out = open_images(f"folder:{image_folder}", split="val")
    assert [one.size[0] for one in examples(held_out)[:7]] == [32] * 6 + [256]
    assert len(examples(None)) == 4
