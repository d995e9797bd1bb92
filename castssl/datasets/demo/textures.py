"""The textures of the demo's parts, where all classes share surroundings and colors.

A part shows two textures in bands.  The classes of one coarse class share their textures, and differ in which
part shows which.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from castssl.datasets.demo.scenes import TURN

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Texture = Callable[[Floats, Floats], NDArray[np.floating[Any]]]
PERIOD = (0.055, 0.085)
"""The period of a texture, a share of the image's side: two of 64 superpixels show more than one."""
BANDS = (0.35, 0.7)
"""The period of the bands of a part's two textures, likewise."""
SHADING = (0.22, 0.45)
"""The change of brightness from an image's center to its rim, a share; it runs across the object only."""


def wrapped(u: Floats) -> Floats:
    """A coordinate within its period: [-pi, pi)."""
    return np.asarray((u + np.pi) % TURN - np.pi, np.float32)


TEXTURES: dict[str, Texture] = {
    "stripes": lambda u, v: np.sin(u),
    "checks": lambda u, v: np.sin(u) * np.sin(v),
    "dots": lambda u, v: np.cos(u) + np.cos(v) - 0.7,
    "rings": lambda u, v: np.cos(2 * np.hypot(wrapped(u), wrapped(v))),
    "zigzag": lambda u, v: np.sin(u + abs(wrapped(v))),
    "waves": lambda u, v: np.sin(u + 2 * np.sin(v)),
    "mesh": lambda u, v: np.maximum(np.cos(u), np.cos(v)) - 0.6,
    "bricks": lambda u, v: np.maximum(np.cos(u + np.pi * (v % (2 * TURN) > TURN)), np.cos(v)) - 0.7,
}
"""Tones from about -1 to 1 at two coordinates in radians, with a period of 2 pi in both."""
COARSE = {
    "meadow": ("rings", "waves", "dots"),
    "sky": ("stripes", "checks", "waves"),
    "street": ("bricks", "mesh", "stripes"),
    "water": ("zigzag", "dots", "mesh"),
}
"""The textures of each coarse class."""


def part_textures(coarse: str, fine: int, number: int) -> tuple[Texture, Texture]:
    """The two textures of part ``number`` of the first (0) or second (1) fine class of a coarse class."""
    names = COARSE[coarse]
    return TEXTURES[names[(number + fine) % 3]], TEXTURES[names[(number + fine + 1) % 3]]


def coordinates(rng: Generator, x: Floats, y: Floats, period: tuple[float, float]) -> tuple[Floats, Floats]:
    """Positions, turned and shifted at random, in radians of a random ``period``.

    Args:
        rng: random numbers.
        x: positions to the right, in image sides.
        y: positions downwards, of the same shape.
        period: the smallest and the largest, in image sides.
    """
    angle, scale = rng.uniform(0, TURN), TURN / rng.uniform(*period)
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    a, b = rng.uniform(0, TURN, 2).tolist()
    return c * x - s * y + a, s * x + c * y + b


def textured(rng: Generator, seen: Pixels, coarse: str, fine: int, ramps: Pixels) -> Pixels:
    """Each part in its two textures under one shading: uint8 (side, side, 3), 0 where no part is.

    Args:
        rng: random numbers.
        seen: part numbers (side, side), 0 where no part is.
        coarse: the coarse class.
        fine: 0 or 1, the number of its fine class.
        ramps: the colors of tones in two ramps, uint8 (2, 256, 3); parts take them in turns.
    """
    canvas = np.zeros((seen.size, 3), np.uint8)
    angle, slope, turn = float(rng.uniform(0, TURN)), float(rng.uniform(*SHADING)), rng.integers(2)
    for number in range(1, int(seen.max()) + 1):
        where = np.flatnonzero(seen == number)
        y, x = (axis.astype(np.float32) / np.float32(len(seen)) for axis in np.divmod(where, len(seen)))
        values = [one(*coordinates(rng, x, y, PERIOD)) for one in part_textures(coarse, fine, number)]
        value = np.where(np.sin(coordinates(rng, x, y, BANDS)[0]) > 0, *values)
        tone = (127.5 + 127.5 * np.tanh(3 * value)).astype(np.uint8)
        light = 1 + slope * (math.sin(angle) * (2 * x - 1) + math.cos(angle) * (2 * y - 1))
        canvas[where] = (ramps[(number + turn) % 2][tone] * light[:, None]).clip(0, 255)
    return canvas.reshape(*seen.shape, 3)
