"""The picture of ``castssl neighbors``, of images that no picture can show as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from castssl.commands import neighbors
from castssl.datasets.images import Images
from castssl.datasets.open import open_images


def test_images_of_five_channels_are_drawn_by_three(tmp_path: Path) -> None:
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 5), dtype=np.uint8)
        np.save(tmp_path / f"{number}.npy", pixels)
    images = open_images(f"folder:{tmp_path}", channels=5)
    assert isinstance(images, Images)
    picture = neighbors._draw(images, (4, 2, 0), [0], {"model": torch.tensor([[1]])})
    assert picture.mode == "RGB"
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100
