"""The three views of Taxon-SSL: one changed little, and two changed much in different ways.

Free-Grained Hierarchical Visual Recognition (CVPR 2026), https://arxiv.org/abs/2510.14737, after CHMatch
(https://arxiv.org/abs/2302.12764).
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import functional

from castssl.data.evaluation_views import SLIM, resized_size
from castssl.data.photometric import Jitter
from castssl.data.random_window import random_window
from castssl.data.views import Augment, CroppedView, to_uint8
from castssl.datasets.images import Box, Plan
from castssl.datasets.multichannel import MultiChannel
from castssl.errors import ConfigError, DataError

_PUBLISHED = 224
"""The side that the paddings are meant for, in pixels."""


class TaxonViews(Augment):
    """The views ``standard``, ``simclr`` and ``randaug``, in this order, of an image whose shorter side is
    resized to ``size``, and its longer side to 8 times ``size`` at most.

    ``standard`` is a crop of the image with a reflected margin of 4 of 224 pixels, flipped half of the time.
    ``simclr`` is a random crop, flipped half of the time, with a color jitter of 0.4, 0.4, 0.4 and 0.1 at a
    probability of 0.8, and gray at 0.2.  ``randaug`` has two operations of RandAugment
    (https://arxiv.org/abs/1909.13719) at magnitude 10 of 30, then a crop as that of ``standard`` with a
    margin of 28 of 224 pixels.  The operations are torchvision's.

    Args:
        size: side of the views in pixels.
        crop_min: the smallest share of the image's area that ``simclr`` shows.

    Raises:
        ConfigError: if a number is out of range.
    """

    views = 3
    bends = True

    def __init__(self, size: int, *, crop_min: float = 0.08) -> None:
        if size < 8 or not 0 < crop_min <= 1:
            raise ConfigError(
                f"views of Taxon-SSL have sides of 8 pixels or more and crop_min in (0, 1], got {size} and"
                f" {crop_min}"
            )
        self.size, self.crop_min = size, crop_min
        self._jitter = Jitter(0.4, 0.4, 0.4, 0.1)
        self._policy = T.RandAugment(2, 10)

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """The three views; a box is that of the crop, without the margin.

        Raises:
            DataError: if the image is not RGB.
        """
        if isinstance(image, MultiChannel):
            raise DataError("the color changes of taxon-ssl are those of RGB; take another --method")
        # At its own aspect ratio, an image of 1 x 20,000 pixels would become gigabytes.
        width, height = (min(side, SLIM * self.size) for side in resized_size(image.size, self.size))
        small: Image.Image = functional.resize(image, [height, width])
        flips = [bool(torch.rand(1) < 0.5) for _ in range(3)]
        changed = [small, small, self._policy(small)]
        flipped = [
            functional.hflip(each) if flip else each for each, flip in zip(changed, flips, strict=True)
        ]
        standard = self._shifted(flipped[0], 4, flips[0])
        simclr = self._cropped(flipped[1], flips[1])
        return [standard, simclr, self._shifted(flipped[2], 28, flips[2])]

    def _shifted(self, image: Image.Image, margin: int, flip: bool) -> CroppedView:
        """A crop of the image with a reflected margin, which is given for views of 224 pixels."""
        wide = max(1, round(margin * self.size / _PUBLISHED))
        padded = functional.pad(image, [wide], padding_mode="reflect")
        top, left, _, _ = T.RandomCrop.get_params(padded, (self.size, self.size))
        view = to_uint8(functional.crop(padded, top, left, self.size, self.size))
        return CroppedView(view, _box(image, (left - wide, top - wide, self.size, self.size), flip), flip)

    def _cropped(self, image: Image.Image, flip: bool) -> CroppedView:
        """A random crop with other colors."""
        left, top, right, bottom = random_window(*image.size, self.crop_min)
        wide, high = right - left, bottom - top
        view = functional.resized_crop(image, top, left, high, wide, [self.size, self.size])
        if torch.rand(1) < 0.8:
            view = Image.fromarray(self._jitter(np.array(view)))
        if torch.rand(1) < 0.2:
            view = functional.to_grayscale(view, 3)
        return CroppedView(to_uint8(view), _box(image, (left, top, wide, high), flip), flip)


def _box(image: Image.Image, window: tuple[int, int, int, int], flip: bool) -> Box:
    """The place of a window (left, top, width, height) before the flip, as shares of the image's sides."""
    (width, height), (left, top, wide, high) = image.size, window
    if flip:
        left = width - left - wide
    low, up = max(left, 0) / width, max(top, 0) / height
    return low, up, min(left + wide, width) / width, min(top + high, height) / height
