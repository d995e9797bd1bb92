"""Changes of a view's colors: jitter, grayscale, blur, solarize, on uint8 (H, W, C) by OpenCV.

Each step equals torchvision's and PIL's up to rounding, in a fraction of the time;
``tests/data/test_photometric.py`` compares them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import transforms as T

Pixels = NDArray[np.uint8]
"""uint8 (H, W, C), mostly RGB; hue, saturation and grayscale change nothing else."""

_RAMP = np.arange(256, dtype=np.float64)


class ColorAugment(NamedTuple):
    """The probability of each step, in this order.

    Attributes:
        jitter: brightness and contrast by up to 0.4, saturation 0.2, hue 0.1, in random order.
        gray: conversion to grayscale.
        blur: a Gaussian blur with a radius of U(0.1, 2) pixels, or another largest radius.
        solarize: invert values from 128 on.
        flip: exchange left and right.
    """

    jitter: float = 0.8
    gray: float = 0.2
    blur: float = 1.0
    solarize: float = 0.0
    flip: float = 0.5


MOCO = (ColorAugment(), ColorAugment(blur=0.1, solarize=0.2))
"""The two views of BYOL (Grill et al. 2020, appendix B, table 6), as MoCo v3 uses them."""


class Jitter:
    """torchvision's ``ColorJitter``, with its own draws.

    Args:
        brightness: factors are drawn from 1 - brightness to 1 + brightness; so are contrast and saturation.
        contrast: see brightness.
        saturation: see brightness.
        hue: shifts are drawn from -hue to hue, as shares of the color circle.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        ranges = T.ColorJitter(brightness, contrast, saturation, hue)
        self._ranges = (ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue)

    def __call__(self, pixels: Pixels) -> Pixels:
        """The pixels with brightness, contrast, saturation and hue changed in random order."""
        order, number = torch.randperm(len(self._ranges)).tolist(), torch.empty(1)
        factors = [number.uniform_(*drawn).item() if drawn else None for drawn in self._ranges]
        for step in order:
            if (factor := factors[step]) is not None and (_is_rgb(pixels) or step < COLORS):
                pixels = _ADJUST[step](pixels, factor)
        return pixels


_JITTER = Jitter(0.4, 0.4, 0.2, 0.1)


def augment_colors(pixels: Pixels, colors: ColorAugment, blur: float) -> Pixels:
    """The pixels after each step of ``colors`` that a draw allows, except the flip.

    Args:
        pixels: uint8 (H, W, C); not changed.
        colors: the steps' probabilities.
        blur: the largest radius of the blur.
    """
    number = torch.empty(1)
    if _draw(colors.jitter, number):
        pixels = _JITTER(pixels)
    if _draw(colors.gray, number) and _is_rgb(pixels):
        pixels = _gray(pixels)
    if _draw(colors.blur, number):
        pixels = gaussian_blur(pixels, number.uniform_(0.1, blur).item())
    if _draw(colors.solarize, number):
        pixels = _array(cv2.min(pixels, cv2.bitwise_not(pixels)))  # Values from 128 on are inverted.
    return pixels


def _is_rgb(pixels: Pixels) -> bool:
    return bool(pixels.shape[2] == 3)


def _draw(probability: float, number: torch.Tensor) -> bool:
    # In place: a new tensor for each draw takes twice the time.
    return probability > 0 and number.uniform_().item() < probability


def _array(result: Any) -> Pixels:
    return np.asarray(result, np.uint8)


def _gray(pixels: Pixels) -> Pixels:
    return _array(cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def blend(pixels: Pixels, factor: float, value: float = 0) -> Pixels:
    """``factor`` parts of the pixels and the rest of one gray value, truncated as in PIL."""
    exact = value + factor * (_RAMP - value)
    if factor <= 2 and (exact % 1 < 0.9998).all():
        # Half of the time of a table.  Single precision is exact to 0.0001 here, so the values are equal.
        return _array(cv2.addWeighted(pixels, factor, pixels, 0, value * (1 - factor) - 0.4999))
    return _array(cv2.LUT(pixels, np.clip(exact, 0, 255).astype(np.uint8)))


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    mean = cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0] if _is_rgb(pixels) else pixels.mean()
    return blend(pixels, factor, int(mean + 0.5))


def _saturate(pixels: Pixels, factor: float) -> Pixels:
    # OpenCV rounds to the nearest value, PIL down: a gray pixel must stay the same under both.
    return _array(cv2.addWeighted(pixels, factor, _gray(pixels), 1 - factor, -0.49))


def shift_hue(pixels: Pixels, shift: float) -> Pixels:
    """Every hue rotated by the share ``shift`` of the color circle, -0.5 to 0.5.

    Both this and PIL work on 8-bit HSV; OpenCV's rounding stays closer to the exact rotation.
    """
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    # An addition to whole rows takes half the time of one to every third value.
    step = np.zeros((hsv.shape[1], 3), np.uint8)
    step[:, 0] = round(shift * 256) % 256
    rows = hsv.reshape(len(hsv), -1)
    rows += step.ravel()
    return _array(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))


_ADJUST = (blend, _contrast, _saturate, shift_hue)
COLORS = 2
"""The first of them that only RGB has."""


def gaussian_blur(pixels: Pixels, radius: float) -> Pixels:
    """The pixels blurred as by PIL's ``GaussianBlur(radius)``, whose three boxes are here one kernel.

    The kernel is three times a box with tapered ends, whose variances add up to ``radius`` squared (Gwosdek
    et al. 2011, Theoretical foundations of Gaussian convolution by extended box filtering).  A sampled
    Gaussian would not do: below a radius of one pixel its variance is too small.
    """
    variance = radius * radius / 3
    taps = int(((12 * variance + 1) ** 0.5 - 1) / 2)
    # The variance of 2 * taps + 1 taps of 1 and two of this weight at the ends, solved for the weight.
    end = (2 * taps + 1) * (variance - taps * (taps + 1) / 3) / (2 * ((taps + 1) ** 2 - variance))
    box = np.concatenate([[end], np.ones(2 * taps + 1), [end]]) / (2 * taps + 1 + 2 * end)
    kernel = np.convolve(np.convolve(box, box), box).astype(np.float32)
    return _array(cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE))
