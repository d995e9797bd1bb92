"""How a view's pixels are changed: jitter, grey, blur, solarize, on uint8 (H, W, 3) by OpenCV.

Each step does what torchvision and PIL do to a picture, up to rounding, in a fraction of the time;
``tests/data/test_photometric.py`` holds them side by side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import transforms as T

Pixels = NDArray[np.uint8]
"""uint8 (H, W, 3), RGB."""

_RAMP = np.arange(256, dtype=np.float64)
_INVERTED = np.where(_RAMP >= 128, 255 - _RAMP, _RAMP).astype(np.uint8)


class ColorAugment(NamedTuple):
    """With which probability a view goes through each step, in this order."""

    jitter: float = 0.8
    """Brightness and contrast by up to 0.4, saturation 0.2, hue 0.1, in random order."""
    grey: float = 0.2
    blur: float = 1.0
    """A Gaussian blur with a radius of U(0.1, 2) pixels, or another largest radius."""
    solarize: float = 0.0
    """Invert what is 128 or brighter."""
    flip: float = 0.5
    """Left to right."""


MOCO = (ColorAugment(), ColorAugment(blur=0.1, solarize=0.2))
"""The two views of BYOL (Grill et al. 2020, appendix B, table 6), as MoCo v3 uses them."""


class Jitter:
    """torchvision's ``ColorJitter``, with its own draws.

    Args:
        brightness: factors are drawn from 1 - brightness to 1 + brightness; so are contrast and saturation.
        contrast: see brightness.
        saturation: see brightness.
        hue: turns are drawn from -hue to hue, as shares of the colour circle.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        ranges = T.ColorJitter(brightness, contrast, saturation, hue)
        self._ranges = (ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue)

    def __call__(self, pixels: Pixels) -> Pixels:
        """The pixels with brightness, contrast, saturation and hue changed in random order."""
        order, *factors = T.ColorJitter.get_params(*self._ranges)
        for step in order.tolist():
            if factors[step] is not None:
                pixels = _ADJUST[step](pixels, factors[step])
        return pixels


_JITTER = Jitter(0.4, 0.4, 0.2, 0.1)


def augment_colors(pixels: Pixels, colors: ColorAugment, blur: float) -> Pixels:
    """The pixels after each step of ``colors`` that a draw allows, but the flip.

    Args:
        pixels: uint8 (H, W, 3); left as they are.
        colors: the steps' probabilities.
        blur: the largest radius of the blur.
    """
    if _happens(colors.jitter):
        pixels = _JITTER(pixels)
    if _happens(colors.grey):
        pixels = _array(cv2.cvtColor(_grey(pixels), cv2.COLOR_GRAY2RGB))
    if _happens(colors.blur):
        pixels = gaussian_blur(pixels, float(torch.empty(1).uniform_(0.1, blur)))
    if _happens(colors.solarize):
        pixels = _array(cv2.LUT(pixels, _INVERTED))
    return pixels


def _happens(probability: float) -> bool:
    return probability > 0 and bool(torch.rand(1) < probability)


def _array(made: Any) -> Pixels:
    return np.asarray(made, np.uint8)


def _grey(pixels: Pixels) -> Pixels:
    return _array(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def _mixed(pixels: Pixels, value: float, factor: float) -> Pixels:
    """``factor`` parts of the pixels and the rest of one grey value, decimals cut off as PIL does."""
    table = np.clip(value + factor * (_RAMP - value), 0, 255).astype(np.uint8)
    return _array(cv2.LUT(pixels, table))


def _brighten(pixels: Pixels, factor: float) -> Pixels:
    return _mixed(pixels, 0, factor)


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    return _mixed(pixels, int(cv2.mean(_grey(pixels))[0] + 0.5), factor)


def _saturate(pixels: Pixels, factor: float) -> Pixels:
    grey = cv2.cvtColor(_grey(pixels), cv2.COLOR_GRAY2RGB)
    # OpenCV rounds to the nearest value, PIL down: a grey pixel must stay as it is under both
    return _array(cv2.addWeighted(pixels, factor, grey, 1 - factor, -0.49))


def shift_hue(pixels: Pixels, turn: float) -> Pixels:
    """Every hue turned by the share ``turn`` of the colour circle, -0.5 to 0.5.

    Both this and PIL work on 8-bit HSV; OpenCV's rounding stays closer to the exact rotation.
    """
    colours = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    colours[..., 0] += np.uint8(round(turn * 256) % 256)
    return _array(cv2.cvtColor(colours, cv2.COLOR_HSV2RGB_FULL))


_ADJUST = (_brighten, _contrast, _saturate, shift_hue)


def gaussian_blur(pixels: Pixels, radius: float) -> Pixels:
    """The pixels blurred as PIL's ``GaussianBlur(radius)`` does, whose three boxes are here one kernel."""
    kernel = _three_boxes(radius)
    return _array(cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE))


def _three_boxes(radius: float) -> NDArray[np.float32]:
    """Three times a box with tapered ends, whose variances add up to ``radius`` squared.

    Gwosdek et al. 2011, Theoretical foundations of Gaussian convolution by extended box filtering.  A
    sampled Gaussian would not do: below a radius of one pixel its variance is smaller than it says.
    """
    variance = radius * radius / 3
    whole = int(((12 * variance + 1) ** 0.5 - 1) / 2)
    # the variance of 2 * whole + 1 taps of 1 and two of this weight at the ends, solved for the weight
    end = (2 * whole + 1) * (variance - whole * (whole + 1) / 3) / (2 * ((whole + 1) ** 2 - variance))
    box = np.concatenate([[end], np.ones(2 * whole + 1), [end]]) / (2 * whole + 1 + 2 * end)
    return np.convolve(np.convolve(box, box), box).astype(np.float32)
