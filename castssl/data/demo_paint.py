"""Paint one demo picture: surroundings, an object on them, and the light of the day over both."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from castssl.data import demo_objects as objects
from castssl.data import demo_scenes as scenes
from castssl.data.demo_objects import Object, Part
from castssl.data.demo_scenes import Points, Scene, Stroke

Picture = NDArray[np.uint8]
FINE = 16
"""Corners are placed to a sixteenth of a pixel, as cv2's ``shift=4`` reads them."""
OVER = 2
"""Painted this many times larger, then averaged down."""


class Kind(NamedTuple):
    """One fine class: what it is, where it is found, and the usual hue of that place."""

    coarse: str
    fine: str
    paint: Object
    scene: Scene
    hue: float
    """Degrees on the colour circle."""
    spread: float
    """Standard deviation of the hue from picture to picture, degrees."""
    saturation: float


KINDS = (
    Kind("meadow", "butterfly", objects.butterfly, scenes.blossoms, 120, 25, 0.55),
    Kind("meadow", "sheep", objects.sheep, scenes.grass, 90, 20, 0.6),
    Kind("sky", "balloon", objects.balloon, scenes.puffs, 215, 25, 0.55),
    Kind("sky", "plane", objects.plane, scenes.streaks, 205, 25, 0.6),
    Kind("street", "car", objects.car, scenes.bricks, 14, 18, 0.5),
    Kind("street", "house", objects.house, scenes.windows, 35, 35, 0.35),
    Kind("water", "boat", objects.boat, scenes.waves, 200, 22, 0.6),
    Kind("water", "fish", objects.fish, scenes.depths, 180, 22, 0.6),
)
"""The fine classes, in the order of their folder names."""


def place(points: Points, frame: NDArray[np.float64], side: int) -> NDArray[np.int32]:
    """Corners in cv2's fixed-point pixels: ``frame`` (2, 3) maps the drawing's units to [-1, 1] x [-1, 1]."""
    moved = points @ frame[:, :2].T + frame[:, 2]
    return np.rint((moved + 1) * (side / 2 * FINE) - FINE / 2).astype(np.int32)


def turned(angle: float, stretch: tuple[float, float], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (2, 3) matrix that stretches, turns by ``angle`` and shifts."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c * stretch[0], -s * stretch[1], shift[0]], [s * stretch[0], c * stretch[1], shift[1]]])


def tones(strokes: list[Stroke], frame: NDArray[np.float64], side: int) -> Picture:
    """A scene in tones of grey: uint8 (side, side)."""
    canvas = np.zeros((side, side), np.uint8)
    for stroke in strokes:
        corners, tone = list(place(stroke.points, frame, side)), int(255 * min(max(stroke.tone, 0), 1))
        if stroke.width is None:
            cv2.fillPoly(canvas, corners, tone, cv2.LINE_AA, 4)
        else:
            closed = len(stroke.points[0]) < 20
            width = max(1, round(stroke.width * side / 2))
            cv2.polylines(canvas, corners, closed, tone, width, cv2.LINE_AA, 4)
    return canvas


def rgb(hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]) -> Picture:
    """Colours, hue in degrees and the others in [0, 1]: uint8 (..., 3)."""
    parts = np.broadcast_arrays(hue % 360, np.clip(saturation, 0, 1), np.clip(value, 0, 1))
    hsv = np.stack(parts, -1).astype(np.float32).reshape(1, -1, 3)
    return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8).reshape(*parts[0].shape, 3)


def ramp(rng: Generator, hue: float, saturation: float) -> Picture:
    """The colours of the tones 0 to 255: uint8 (256, 3)."""
    t = np.linspace(0, 1, 256)
    dark, light = rng.uniform(0.12, 0.35), rng.uniform(0.7, 1.0)
    drift = rng.uniform(-25, 25)
    return rgb(hue + drift * (t - 0.5), saturation * (1.2 - 0.7 * t), dark + (light - dark) * t)


def colours(rng: Generator, hue: float, count: int) -> Picture:
    """A colour for each part, away from the surroundings' ``hue``: uint8 (count, 3)."""
    first = hue + rng.uniform(70, 290)
    offsets = rng.permutation(np.array([0.0, 35.0, 150.0, -40.0, 180.0]))[:count]
    values = rng.permutation(np.array([0.95, 0.8, 0.6, 0.4, 0.9]))[:count]
    return rgb(first + offsets, rng.uniform(0.35, 0.85, count), values)


def cover(parts: list[Part], frame: NDArray[np.float64], side: int) -> Picture:
    """Which part is seen where: uint8 (side, side), 0 where none is."""
    canvas = np.zeros((side, side), np.uint8)
    for part in parts:
        cv2.fillPoly(canvas, list(place(part.points, frame, side)), part.number, cv2.LINE_8, 4)
    return canvas


def pose(rng: Generator, parts: list[Part]) -> NDArray[np.float64]:
    """Where the object is: a fifth to two fifths of the picture, a little turned, perhaps mirrored."""
    angle, ratio = rng.normal(0, 0.15), np.exp(rng.normal(0, 0.08))
    share = (cover(parts, turned(0, (0.9, 0.9), np.zeros(2)), 64) > 0).mean() / 0.81
    scale = min(np.sqrt(rng.uniform(0.22, 0.42) / share), 1.0)
    mirror = rng.choice([-1.0, 1.0])
    room = max(1.05 - scale, 0.05)
    return turned(angle, (mirror * scale * ratio, scale / ratio), rng.uniform(-room, room, 2))


def objected(rng: Generator, picture: Picture, parts: list[Part], hue: float) -> tuple[Picture, Picture]:
    """The picture with the object painted on it and its shadow beside it, and the part numbers."""
    side = picture.shape[0]
    frame = pose(rng, parts)
    seen = cover(parts, frame, side)
    shadow = cv2.GaussianBlur((seen > 0).astype(np.float32), (0, 0), side * 0.02)
    shift = np.array([[1, 0, rng.uniform(-0.05, 0.05) * side], [0, 1, 0.04 * side]], dtype=np.float32)
    shade = 1 - 0.45 * cv2.warpAffine(shadow, shift, (side, side))
    canvas = (picture * shade[..., None]).astype(np.uint8)
    paint = colours(rng, hue, 5).astype(int)
    for part in parts:
        corners = list(place(part.points, frame, side))
        cv2.fillPoly(canvas, corners, paint[part.number - 1].tolist(), cv2.LINE_AA, 4)
    rim = cv2.morphologyEx(seen, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    canvas[rim] = (canvas[rim] * 0.5).astype(np.uint8)
    return canvas, seen


def lit(rng: Generator, picture: Picture) -> Picture:
    """The picture under some light: brightness, contrast, tint, a gradient across it, haze, blur and grain.

    These vary more than what the picture shows, as they do in photographs, and say nothing of the class.
    """
    size = picture.shape[0]
    light = picture.astype(np.float32) / 255
    light = light ** np.float32(np.exp(rng.normal(0, 0.35)))
    across = np.linspace(-1, 1, size, dtype=np.float32)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    light *= (
        1 + np.float32(slope) * (np.cos(angle) * across[None] + np.sin(angle) * across[:, None])[..., None]
    )
    contrast, level = rng.uniform(0.45, 1.1), rng.uniform(0.25, 0.75)
    light = (light - light.mean()) * contrast + level
    light *= np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    if rng.random() < 0.5:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.3, 0.9) * size / 96)
    light += rng.normal(0, rng.uniform(0, 0.05), light.shape).astype(np.float32)
    return (light.clip(0, 1) * 255).astype(np.uint8)


def paint(rng: Generator, kind: Kind, size: int) -> tuple[Picture, Picture]:
    """A picture of this kind and its parts: RGB uint8 (size, size, 3) and part numbers uint8 (size, size)."""
    side = OVER * size
    hue = rng.normal(kind.hue, kind.spread)
    zoom = np.exp(rng.uniform(-0.35, 0.35))
    frame = turned(rng.normal(0, 0.12), (zoom * rng.choice([-1.0, 1.0]), zoom), rng.uniform(-0.1, 0.1, 2))
    grey = tones(kind.scene(rng, 0.3), frame, side)
    saturation = kind.saturation * rng.uniform(0.6, 1.3)
    picture = ramp(rng, hue, saturation)[grey]
    picture, seen = objected(rng, picture, kind.paint(rng), hue)
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    parts = seen[OVER // 2 :: OVER, OVER // 2 :: OVER]
    return lit(rng, small), np.ascontiguousarray(parts)
