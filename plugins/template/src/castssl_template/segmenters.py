"""Bands of brightness as a segmenter, fine to coarse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from castssl.errors import ConfigError
from castssl.segmenter import Segmenter, check_image, consecutive


class TemplateSegmenter(Segmenter):
    """Pixels of like brightness share a segment; each level has half as many bands as the one before.

    Args:
        source: unused; a path of weights, for example, in ``template:SOURCE``.
        levels: number of levels, 1 to 8; the coarsest has two bands.

    Raises:
        ConfigError: if ``levels`` is out of range.
    """

    nested = True
    """Each band lies within one of the next level."""

    def __init__(self, source: str, *, levels: int = 3) -> None:
        if not 1 <= levels <= 8:
            raise ConfigError(f"levels must be 1 to 8, got {levels}")
        self.levels = levels

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> NDArray[np.int32]:
        """uint8 (H, W, 3) -> int32 (levels, H, W)."""
        check_image(image)
        brightness = image.mean(2).astype(np.int64)
        return consecutive(np.stack([brightness >> (8 - level) for level in range(self.levels, 0, -1)]))
