"""Small images in the layouts that users have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

LAYOUT = (
    "train/animal/cat/a.png",
    "train/animal/cat/b.JPG",
    "train/animal/dog/c.png",
    "train/plant/oak/d.png",
)


def make_image(seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """A smooth random RGB image of width x height ``size``."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def write(root: Path, names: Sequence[str]) -> Path:
    """One image per name below ``root``."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_image(seed).save(path)
    return root
