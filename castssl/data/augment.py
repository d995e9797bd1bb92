"""Pictures become views: MoCo v3's two, one random crop, and evaluation's centre crop.

Each takes an RGB picture and returns uint8 tensors; normalisation comes later, in ``finish``, so that
superpixels see plain colours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from lightly.transforms.gaussian_blur import GaussianBlur
from lightly.transforms.solarize import RandomSolarization
from PIL import Image
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional as F

from castssl.errors import ConfigError

Views = list[Tensor]
"""One uint8 (3, size, size) tensor per view."""


class Augment(Protocol):
    """What a loader needs to know of an augmentation."""

    views: int
    """How many views it makes of one picture."""

    def __call__(self, image: Image.Image) -> Views: ...


class Look(NamedTuple):
    """With which probability a view goes through each step, in this order."""

    jitter: float = 0.8
    """Brightness and contrast by up to 0.4, saturation 0.2, hue 0.1, in random order."""
    grey: float = 0.2
    blur: float = 1.0
    """PIL's Gaussian blur with a radius of U(0.1, 2) pixels, or another largest radius."""
    solarize: float = 0.0
    """Invert what is 128 or brighter."""
    flip: float = 0.5
    """Left to right."""


MOCO = (Look(), Look(blur=0.1, solarize=0.2))
"""The two views of BYOL (Grill et al. 2020, appendix B, table 6), as MoCo v3 uses them."""


class TwoViews:
    """MoCo v3's two random views: crop, jitter, grey, blur, solarize, flip.

    Chen, Xie and He 2021 (https://arxiv.org/abs/2104.02057), section 4; CAST uses the same.

    Args:
        size: side of a view in pixels.
        crop_min: the smallest share of the picture's area that a crop covers (the largest is 1), at an
            aspect ratio of 3/4 to 4/3, resized bilinearly.
        blur: the largest radius of the blur in pixels.  The published 2 is meant for views of 224 pixels; in
            much smaller ones it wipes out all texture.
        looks: the probabilities of each view; as many views as looks.
    """

    def __init__(
        self, size: int, crop_min: float = 0.08, *, blur: float = 2.0, looks: Sequence[Look] = MOCO
    ) -> None:
        _positive(size)
        if blur < 0.1:
            raise ConfigError(f"the blur's radius is drawn from 0.1 to blur pixels, got blur {blur}")
        self.views = len(looks)
        self._steps = [_look(size, crop_min, blur, look) for look in looks]

    def __call__(self, image: Image.Image) -> Views:
        """As many uint8 (3, size, size) tensors as looks."""
        return [to_uint8(steps(image)) for steps in self._steps]


class OneView:
    """One random crop, flipped half of the time: what a linear probe trains on.

    Args:
        size: side of the view in pixels.
        crop_min: as in :class:`TwoViews`.
    """

    views = 1

    def __init__(self, size: int, crop_min: float = 0.08) -> None:
        _positive(size)
        self._steps = T.Compose([T.RandomResizedCrop(size, scale=(crop_min, 1.0)), T.RandomHorizontalFlip()])

    def __call__(self, image: Image.Image) -> Views:
        """One uint8 (3, size, size) tensor."""
        return [to_uint8(self._steps(image))]


class CenterView:
    """The centre of the picture, the same each time: what evaluation looks at.

    Args:
        size: side of the view in pixels.
        ratio: the shorter side is resized to ``int(size * ratio)`` before the crop; 256/224 as usual.
        interpolation: "bilinear" (MoCo v3's probe), "bicubic" (DeiT, H-CAST), or "nearest".
    """

    views = 1

    def __init__(self, size: int, ratio: float = 256 / 224, *, interpolation: str = "bilinear") -> None:
        _positive(size)
        if interpolation not in {mode.value for mode in T.InterpolationMode} or ratio < 1:
            raise ConfigError(
                f"CenterView takes a ratio of at least 1 and bilinear, bicubic or nearest interpolation, got"
                f" {ratio} and {interpolation!r}"
            )
        # the small term keeps 224 * 256/224 from becoming 255
        shorter = int(size * ratio + 1e-6)
        self._steps = T.Compose([T.Resize(shorter, T.InterpolationMode(interpolation)), T.CenterCrop(size)])

    def __call__(self, image: Image.Image) -> Views:
        """One uint8 (3, size, size) tensor."""
        return [to_uint8(self._steps(image))]


class Jitter:
    """torchvision's ``ColorJitter`` with the hue turned by OpenCV.

    That takes a fifteenth of the time of what is most of a view's cost otherwise; both work on 8-bit HSV, and
    OpenCV's rounding stays closer to the exact rotation.

    Args:
        brightness: factors are drawn from 1 - brightness to 1 + brightness; so are contrast and saturation.
        contrast: see brightness.
        saturation: see brightness.
        hue: turns are drawn from -hue to hue, as shares of the colour circle.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        ranges = T.ColorJitter(brightness, contrast, saturation, hue)
        self._ranges = (ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue)

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture with brightness, contrast, saturation and hue changed in random order."""
        order, *factors = T.ColorJitter.get_params(*self._ranges)
        for step in order.tolist():
            if factors[step] is not None:
                image = _ADJUST[step](image, factors[step])
        return image


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """``image`` with every hue turned by the share ``turn`` of the colour circle, -0.5 to 0.5."""
    pixels = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2HSV_FULL)
    pixels[..., 0] += np.uint8(round(turn * 256) % 256)
    return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB_FULL))


_ADJUST: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    F.adjust_brightness,
    F.adjust_contrast,
    F.adjust_saturation,
    turn_hue,
)


def _look(size: int, crop_min: float, blur: float, look: Look) -> T.Compose:
    return T.Compose(
        [
            T.RandomResizedCrop(size, scale=(crop_min, 1.0)),
            T.RandomApply([Jitter(0.4, 0.4, 0.2, 0.1)], p=look.jitter),
            T.RandomGrayscale(look.grey),
            GaussianBlur(prob=look.blur, sigmas=(0.1, blur)),
            RandomSolarization(prob=look.solarize, threshold=128),
            T.RandomHorizontalFlip(look.flip),
        ]
    )


def to_uint8(image: Image.Image) -> Tensor:
    """uint8 (3, H, W) of an RGB picture."""
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def _positive(size: int) -> None:
    if size < 1:
        raise ConfigError(f"a view's side must be at least 1 pixel, got {size}")
