"""``merge``: superpixels merged without learning, what learned segmentations are compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from castssl.registry import build
from castssl.segmenter import Segmenter, check_image, consecutive
from castssl.segmenters.levels import SIZES, check_sizes
from castssl.superpixel_labels import partition
from castssl.superpixels.merge import COLOR, KINDS, merge


class Merge(Segmenter):
    """Superpixels merged to a few segments, without learning: ``merge``, ``merge:by=neighbors``.

    :mod:`castssl.superpixels.merge` computes them at the image's own size; the levels are cuts of one tree.

    Args:
        source: none; it is "".
        by: ``color`` (Ward's clustering of mean colors), ``color+place``, ``neighbors`` or ``random``.
        sizes: segments of each level, fine to coarse; an image of fewer superpixels has fewer.
        superpixels: what is merged, such as ``seeds:count=324``.
        seed: of ``random``.

    Raises:
        ValueError: if an option is none of these, or there is a source.
    """

    nested = True

    def __init__(
        self,
        source: str,
        *,
        by: str = COLOR,
        sizes: tuple[int, ...] = SIZES,
        superpixels: str = "seeds",
        seed: int = 0,
    ) -> None:
        if source:
            raise ValueError(f"expected options alone, such as NAME:key=value, got the source {source!r}")
        if by not in KINDS:
            raise ValueError(f"expected by to be one of {', '.join(KINDS)}, got {by!r}")
        self.sizes, self.by, self.seed = check_sizes(sizes), by, seed
        self.superpixels = build("superpixels", superpixels)

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> NDArray[np.int32]:
        """uint8 (H, W, 3) -> int32 (levels, H, W)."""
        check_image(image)
        pixels = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        segments = partition(self.superpixels, pixels[None])[0]
        return consecutive(merge(pixels, segments, self.sizes, by=self.by, seed=self.seed).numpy())
