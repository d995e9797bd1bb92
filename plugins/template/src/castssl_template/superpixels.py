"""Bands of brightness as superpixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.errors import ConfigError
from castssl.superpixels.per_image import per_image


class TemplateSuperpixels(Superpixels):
    """Pixels of like brightness share a segment.

    Args:
        count: number of bands, 1 to 256.

    Raises:
        ConfigError: if ``count`` is out of range.
    """

    count: int

    def __init__(self, *, count: int = 64) -> None:
        if not 1 <= count <= 256:
            raise ConfigError(f"count must be 1 to 256, got {count}")
        self.count = count

    def capacity(self, height: int, width: int) -> int:
        """The number of bands, whatever the image size."""
        return self.count

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> int32 (B, H, W)."""
        return per_image(self.partition)(images)

    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """One RGB image (H, W, 3) to labels (H, W) in [0, count)."""
        brightness: NDArray[np.int64] = image.sum(-1, dtype=np.int64)
        return brightness * self.count // (3 * 255 + 1)
