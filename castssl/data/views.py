"""Images become views: MoCo v3's two, and one random crop.

Each takes an image, of RGB or other channels, and returns uint8 tensors.  :mod:`castssl.data.normalize`
normalizes them later, so that superpixels see plain colors.  All random numbers are torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from castssl.data.photometric import MOCO, ColorAugment, Pixels, augment_colors
from castssl.data.random_window import Window, random_window
from castssl.datasets.images import Box, Plan
from castssl.errors import ConfigError

__all__ = [
    "MOCO",
    "Augment",
    "ColorAugment",
    "CroppedView",
    "OneView",
    "TwoViews",
]

Views = list[Tensor]
"""One uint8 (C, size, size) tensor per view."""


class CroppedView(NamedTuple):
    """A view and its place in the image, so that a map of the image can be cropped and flipped likewise.

    Attributes:
        image: uint8 (C, size, size).
        box: the part of the image that the view shows.
        flipped: whether left and right were exchanged after the crop.
    """

    image: Tensor
    box: Box
    flipped: bool


class Augment:
    """The interface of an augmentation.

    Attributes:
        views: number of views of one image.
        bends: True if the views are sheared, rotated or shifted, so ``box`` does not place every pixel.
    """

    views: int = 1
    bends: bool = False

    def plan(self, width: int, height: int) -> Plan:
        """Draw the crops of an image of this size; by default none: the whole image is needed."""
        return Plan((), 1)

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """The views of an image, of ``plan`` if it was drawn before, and their places."""
        raise NotImplementedError

    def __call__(self, image: Image.Image) -> Views:
        """The views alone: uint8 (C, size, size) each."""
        return [view.image for view in self.crop(image)]


class TwoViews(Augment):
    """MoCo v3's two random views: crop, jitter, grayscale, blur, solarize, flip.

    Chen, Xie and He 2021 (https://arxiv.org/abs/2104.02057), section 4; CAST uses the same.

    Args:
        size: side of a view in pixels.
        crop_min: the smallest share of the image's area that a crop covers (the largest is 1), at an aspect
            ratio of 3/4 to 4/3, resized bilinearly.
        blur: the largest radius of the blur in pixels.  The published 2 is meant for views of 224 pixels; in
            much smaller ones it removes all texture.
        colors: the probabilities of each view; their number is the number of views.

    Raises:
        ConfigError: if a number is out of range.
    """

    def __init__(
        self, size: int, crop_min: float = 0.08, *, blur: float = 2.0, colors: Sequence[ColorAugment] = MOCO
    ) -> None:
        check_size(size)
        if blur < 0.1:
            raise ConfigError(f"the blur's radius is drawn from 0.1 to blur pixels, got blur {blur}")
        self.views = len(colors)
        self.size = size
        self.crop_min = crop_min
        self.blur = blur
        self.colors = tuple(colors)

    def plan(self, width: int, height: int) -> Plan:
        """The crops of an image of this size, by torchvision's law; no pixel is read."""
        windows = [random_window(width, height, self.crop_min) for _ in range(self.views)]
        least = min(min(right - left, bottom - top) for left, top, right, bottom in windows)
        return Plan(tuple(to_box(window, width, height) for window in windows), _shrink(least / self.size))

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """One view for each entry of ``colors``, and their places."""
        boxes = (plan or self.plan(*image.size)).boxes
        pixels = np.asarray(image)
        return [self._view(pixels, box, colors) for box, colors in zip(boxes, self.colors, strict=True)]

    def _view(self, pixels: Pixels, box: Box, colors: ColorAugment) -> CroppedView:
        height, width = pixels.shape[:2]
        left, top, right, bottom = window = to_window(box, width, height)
        # A copy: torch takes longer for rows with gaps.  numpy moves axes in less time than torch.
        crop = torch.from_numpy(pixels[None, top:bottom, left:right].copy().transpose(0, 3, 1, 2))
        # PIL's filter, to within one gray value, in a quarter of its time.
        small = interpolate(crop, (self.size, self.size), mode="bilinear", antialias=True).numpy()[0]
        view = augment_colors(np.ascontiguousarray(small.transpose(1, 2, 0)), colors, self.blur)
        flipped = torch.rand(1).item() < colors.flip
        return CroppedView(_tensor(view, flipped), to_box(window, width, height), flipped)


class OneView(TwoViews):
    """One random crop, flipped half of the time, for the training of a linear probe.

    Args:
        size: side of the view in pixels.
        crop_min: as in :class:`TwoViews`.
    """

    def __init__(self, size: int, crop_min: float = 0.08) -> None:
        super().__init__(size, crop_min, colors=[ColorAugment(0, 0, 0, 0, 0.5)])


def to_uint8(image: Image.Image) -> Tensor:
    """uint8 (C, H, W) of an image."""
    return _tensor(np.asarray(image), False)


def _shrink(least: float) -> int:
    """For a smallest crop whose shorter side is ``least`` times a view's.

    Some pixels more than the view's must be left: with none to spare, a view's gradients have up to 1.7 times
    the energy of one cropped from the full image, because the decoder smooths less than the resizing does;
    with these many, 0.94 to 0.99 times.
    """
    return 4 if least >= 8 else 2 if least >= 2.5 else 1


def to_box(window: Window, width: int, height: int) -> Box:
    """The box of a window in an image of this size."""
    left, top, right, bottom = window
    return left / width, top / height, right / width, bottom / height


def to_window(box: Box, width: int, height: int) -> Window:
    """The box in whole pixels, at least one."""
    left, top = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    return left, top, max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)


def _tensor(pixels: Pixels, flipped: bool) -> Tensor:
    """uint8 (C, H, W) of (H, W, C), flipped or not."""
    planes = np.empty((pixels.shape[2], *pixels.shape[:2]), np.uint8)
    cv2.split(cv2.flip(pixels, 1) if flipped else pixels, list(planes))
    return torch.from_numpy(planes)


def check_size(size: int) -> None:
    """Refuse a side of less than 1 pixel by a ``ConfigError``."""
    if size < 1:
        raise ConfigError(f"a view's side must be at least 1 pixel, got {size}")
