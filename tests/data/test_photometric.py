"""Each step against what torchvision, lightly and PIL make of the same image."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as T
from torchvision.transforms import functional as F

from castssl.data.photometric import (
    ColorAugment,
    Jitter,
    Pixels,
    augment_colors,
    blend,
    gaussian_blur,
    shift_hue,
)
from castssl.data.rng import seeded
from castssl.visualization.photographs import photographs
from tests.datasets.image_files import make_image

PHOTOGRAPH = photographs()[2][1].resize((96, 64))


def _off(one: NDArray[np.uint8], other: Image.Image) -> NDArray[np.int64]:
    off: NDArray[np.int64] = np.abs(one.astype(np.int64) - np.asarray(other, np.int64))
    return off


@pytest.mark.parametrize("seed", range(5))
def test_jitter_is_nearly_torchvision_s(seed: int) -> None:
    image = make_image(seed, (40, 30))
    with seeded(seed):
        computed = Jitter(0.4, 0.4, 0.2, 0.1)(np.asarray(image))
    with seeded(seed):
        theirs = T.ColorJitter(0.4, 0.4, 0.2, 0.1)(image)
    assert _off(computed, theirs).mean() < 2
    assert _off(computed, theirs).max() <= 20


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("step", ["brightness", "contrast", "saturation"])
def test_a_single_change_is_torchvision_s_to_one_gray_value(step: str, seed: int) -> None:
    strength = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | {step: 0.4}
    with seeded(seed):
        computed = Jitter(**strength)(np.asarray(PHOTOGRAPH))
    with seeded(seed):
        theirs = T.ColorJitter(**strength)(PHOTOGRAPH)
    assert _off(computed, theirs).max() <= 2
    assert _off(computed, theirs).mean() < 0.6
    assert _off(computed, PHOTOGRAPH).mean() > 0.3


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.floats(0, 2), st.floats(0, 50)), st.integers(0, 255))
@example(0.0, 200)
@example(1.0, 255)
@example(0.5, 255)
@example(0.99999, 0)
@example(43.338314881995444, 214)
def test_brightness_and_contrast_truncate(factor: float, value: int) -> None:
    """In single precision as well as by a table."""
    ramp = np.arange(256)
    exact = np.clip(value + factor * (ramp - float(value)), 0, 255).astype(np.uint8)
    pixels = np.broadcast_to(ramp.astype(np.uint8)[:, None], (256, 3)).copy()
    assert np.array_equal(blend(pixels[None], factor, value)[0], np.stack([exact] * 3, 1))


def test_saturation_leaves_gray_alone() -> None:
    ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    with seeded(1):
        assert all(np.array_equal(Jitter(0, 0, 0.4, 0)(ramp), ramp) for _ in range(20))


@pytest.mark.parametrize("turn", [-0.1, -0.03, 0.0, 0.1, 0.5])
def test_hue_turns_as_color_theory_says(turn: float) -> None:
    pixels = np.asarray(make_image(3, (12, 12)))
    exact = [
        colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        for hue, saturation, value in (colorsys.rgb_to_hsv(*p) for p in pixels.reshape(-1, 3) / 255)
    ]
    off = shift_hue(pixels, turn).reshape(-1, 3) - np.array(exact) * 255
    assert np.abs(off).mean() < 1
    assert np.abs(off).max() < 8


@pytest.mark.parametrize("radius", [0.1, 0.3, 0.6, 0.9, 1.0, 1.3, 1.7, 2.0])
def test_blur_is_pil_s(radius: float) -> None:
    """PIL rounds after each of six passes, and repeats the edge before each."""
    off = _off(
        gaussian_blur(np.asarray(PHOTOGRAPH), radius), PHOTOGRAPH.filter(ImageFilter.GaussianBlur(radius))
    )
    assert off[6:-6, 6:-6].max() <= 3
    assert off.mean() < 0.9


def test_a_sampled_gaussian_would_not_be_pil_s_blur() -> None:
    pil = PHOTOGRAPH.filter(ImageFilter.GaussianBlur(0.3))
    sampled = np.asarray(cv2.GaussianBlur(np.asarray(PHOTOGRAPH), (0, 0), 0.3), np.uint8)
    assert _off(sampled, pil)[6:-6, 6:-6].max() > 3


def test_blurring_twice_adds_the_variances() -> None:
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[20, 20] = 255
    spread = gaussian_blur(dot, 2.0)[..., 0].astype(float)
    where = np.arange(41) - 20
    assert (spread.sum(0) * where**2).sum() / spread.sum() == pytest.approx(4, rel=0.1)


def test_gray_and_solarize_are_pil_s() -> None:
    pixels = np.asarray(PHOTOGRAPH)
    gray = augment_colors(pixels, ColorAugment(0, 1, 0, 0, 0), 2.0)
    assert _off(gray, F.to_grayscale(PHOTOGRAPH, 3)).max() <= 1
    assert (
        _off(
            augment_colors(pixels, ColorAugment(0, 0, 0, 1, 0), 2.0), ImageOps.solarize(PHOTOGRAPH, 128)
        ).max()
        == 0
    )


def test_pixels_are_left_as_they_are() -> None:
    pixels: Pixels = np.array(PHOTOGRAPH)
    before = pixels.copy()
    torch.manual_seed(0)
    for _ in range(10):
        augment_colors(pixels, ColorAugment(1, 0.5, 1, 0.5, 0), 2.0)
    assert np.array_equal(pixels, before)
