"""Paint one demo image: surroundings, an object on them, and the lighting of both.

``shared`` surroundings are any scene, and have the colors of the object: its parts differ from them and from
each other in texture and shape, and color does not separate classes.  ``fixed`` surroundings
differ from class to class, and the parts of the object have colors of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from castssl.datasets.demo import objects, scenes
from castssl.datasets.demo.objects import Object, Part
from castssl.datasets.demo.scenes import TURN, Points, Scene, Stroke
from castssl.datasets.demo.textures import coordinates, textured

Pixels = NDArray[np.uint8]
Surroundings = Literal["shared", "fixed"]
Light = NDArray[np.float32]
"""An image in [0, 1]."""
SUBPIXEL = 16
"""Corners are placed to a sixteenth of a pixel, as cv2's ``shift=4`` reads them."""
DRIFT = 50.0
"""At most so many degrees of hue lie between the darkest and the lightest tone of the surroundings."""
PERIOD = 0.42
"""How far apart patterns repeat, in half sides of the image; coarse enough to outlast MoCo's blur."""
PATCHES = (0.8, 1.4)
"""The period of patches of two color ramps in shared surroundings, in image sides."""
SMALL = (0.4, 0.5)
"""The size of one of several objects, in half sides of the image."""
OVER = 2
"""Objects are painted this many times larger, then averaged down."""


class Kind(NamedTuple):
    """One fine class: its object, and its fixed surroundings, a scene and its usual hue.

    Attributes:
        coarse: class name.
        fine: class name.
        paint: the parts of the object.
        scene: the strokes around it.
        hue: degrees on the color circle.
        spread: standard deviation of the hue between images, degrees.
        saturation: 0 to 1.
    """

    coarse: str
    fine: str
    paint: Object
    scene: Scene
    hue: float
    spread: float
    saturation: float


KINDS = (
    Kind("meadow", "butterfly", objects.butterfly, scenes.blossoms, 120, 30, 0.55),
    Kind("meadow", "sheep", objects.sheep, scenes.grass, 90, 24, 0.6),
    Kind("sky", "balloon", objects.balloon, scenes.puffs, 215, 30, 0.55),
    Kind("sky", "plane", objects.plane, scenes.streaks, 205, 30, 0.6),
    Kind("street", "car", objects.car, scenes.bricks, 14, 22, 0.5),
    Kind("street", "house", objects.house, scenes.windows, 35, 42, 0.35),
    Kind("water", "boat", objects.boat, scenes.waves, 200, 26, 0.6),
    Kind("water", "fish", objects.fish, scenes.depths, 180, 26, 0.6),
)
"""The fine classes, in the order of their folder names."""


def place(points: Points, frame: NDArray[np.float64], side: int) -> NDArray[np.int32]:
    """Corners in cv2's fixed-point pixels: ``frame`` (2, 3) maps the drawing's units to [-1, 1] x [-1, 1]."""
    moved = points @ frame[:, :2].T + frame[:, 2]
    return np.asarray(np.rint((moved + 1) * (side / 2 * SUBPIXEL) - SUBPIXEL / 2), np.int32)


def visible(corners: NDArray[np.int32], side: int) -> NDArray[np.int32]:
    """Those polygons whose bounding box touches the image (and a margin for a line's width)."""
    low, high = corners.min(1), corners.max(1)
    margin = side // 8 * SUBPIXEL
    return np.asarray(corners[((high > -margin) & (low < side * SUBPIXEL + margin)).all(1)])


def turned(angle: float, stretch: tuple[float, float], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (2, 3) matrix that stretches, turns by ``angle`` and shifts."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c * stretch[0], -s * stretch[1], shift[0]], [s * stretch[0], c * stretch[1], shift[1]]])


def tones(strokes: list[Stroke], frame: NDArray[np.float64], side: int) -> Pixels:
    """A scene in tones of gray: uint8 (side, side)."""
    canvas = np.zeros((side, side), np.uint8)
    for stroke in strokes:
        corners, tone = list(visible(place(stroke.points, frame, side), side)), int(255 * stroke.tone)
        if stroke.heaped:
            for polygon in corners:
                cv2.fillConvexPoly(canvas, polygon, tone, cv2.LINE_AA, 4)
        elif stroke.width is None:
            cv2.fillPoly(canvas, corners, tone, cv2.LINE_AA, 4)
        else:
            closed = stroke.points.shape[1] < 20
            width = max(1, round(stroke.width * side / 2))
            cv2.polylines(canvas, corners, closed, tone, width, cv2.LINE_AA, 4)
    return canvas


def rgb(hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]) -> Pixels:
    """Colors, hue in degrees and the others in [0, 1]: uint8 (..., 3)."""
    parts = np.broadcast_arrays(hue % 360, np.clip(saturation, 0, 1), np.clip(value, 0, 1))
    hsv = np.stack(parts, -1).astype(np.float32).reshape(1, -1, 3)
    return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8).reshape(*parts[0].shape, 3)


def ramp(rng: Generator, hue: float, saturation: float) -> Pixels:
    """The colors of the tones 0 to 255: uint8 (256, 3)."""
    t = np.linspace(0, 1, 256)
    dark, light = rng.uniform(0.12, 0.35), rng.uniform(0.7, 1.0)
    drift = rng.uniform(-DRIFT, DRIFT)
    return rgb(hue + drift * (t - 0.5), saturation * (1.2 - 0.7 * t), dark + (light - dark) * t)


def part_colors(rng: Generator, hue: float, count: int) -> Pixels:
    """A color for each part, away from the surroundings' ``hue``: uint8 (count, 3)."""
    first = hue + rng.uniform(70, 290)
    offsets = rng.permutation(np.array([0.0, 35.0, 150.0, -40.0, 180.0]))[:count]
    values = rng.permutation(np.array([0.95, 0.8, 0.6, 0.4, 0.9]))[:count]
    return rgb(first + offsets, rng.uniform(0.35, 0.85, count), values)


def cover(parts: list[Part], frame: NDArray[np.float64], side: int) -> Pixels:
    """Which part is seen where: uint8 (side, side), 0 where none is."""
    canvas = np.zeros((side, side), np.uint8)
    for part in parts:
        for polygon in place(part.points, frame, side):
            cv2.fillPoly(canvas, [polygon], part.number, cv2.LINE_8, 4)
    return canvas


def pose(rng: Generator, parts: list[Part]) -> NDArray[np.float64]:
    """Where the object is: a fifth to two fifths of the image, a little turned, perhaps mirrored."""
    angle, ratio = rng.normal(0, 0.15), np.exp(rng.normal(0, 0.08))
    share = (cover(parts, turned(0, (0.9, 0.9), np.zeros(2)), 64) > 0).mean() / 0.81
    scale = min(np.sqrt(rng.uniform(0.22, 0.42) / share), 1.0)
    mirror = rng.choice([-1.0, 1.0])
    room = max(1.05 - scale, 0.05)
    return turned(angle, (mirror * scale * ratio, scale / ratio), rng.uniform(-room, room, 2))


def small_pose(rng: Generator, center: Points) -> NDArray[np.float64]:
    """Where one of several objects is: near ``center`` (2,), a little turned, perhaps mirrored."""
    scale, ratio = rng.uniform(*SMALL), np.exp(rng.normal(0, 0.08))
    stretch = (rng.choice([-1.0, 1.0]) * scale * ratio, scale / ratio)
    return turned(rng.normal(0, 0.15), stretch, center + rng.uniform(-0.08, 0.08, 2))


def backdrop(rng: Generator, scene: Scene, size: int) -> Pixels:
    """A scene at a random place, in tones of gray: uint8 (size, size)."""
    zoom = np.exp(rng.uniform(-0.35, 0.35))
    stretch = (zoom * rng.choice([-1.0, 1.0]), zoom)
    frame = turned(rng.normal(0, 0.12), stretch, rng.uniform(-0.1, 0.1, 2))
    return tones(scene(rng, PERIOD), frame, size)


def fixed(rng: Generator, kind: Kind, size: int) -> tuple[Pixels, Pixels, Pixels]:
    """The class's own surroundings; the object in a color a part, :data:`OVER` times larger; its parts."""
    hue = rng.normal(kind.hue, kind.spread)
    gray = backdrop(rng, kind.scene, size)
    ground = ramp(rng, hue, kind.saturation * rng.uniform(0.6, 1.3))[gray]
    parts, colors = kind.paint(rng), part_colors(rng, hue, 5)
    seen = cover(parts, pose(rng, parts), OVER * size)
    return ground, np.concatenate([np.zeros((1, 3), np.uint8), colors])[seen], seen


def plain(rng: Generator, size: int) -> tuple[Pixels, Pixels]:
    """Any scene in two color ramps, which its objects share: (size, size, 3), and the ramps (2, 256, 3)."""
    hues = rng.uniform(0, 360) + rng.permutation(np.array([0.0, 60.0, 150.0, 220.0])) + rng.normal(0, 15, 4)
    values = np.array([0.25, 0.5, 0.75, 1.0]) - rng.uniform(0, 0.08, 4)
    dark, light = rgb(hues, rng.uniform(0.3, 0.8, 4), values).reshape(2, 2, 1, 3) / np.float32(255)
    ramps = (255 * (dark + (light - dark) * np.linspace(0, 1, 256)[:, None])).astype(np.uint8)
    gray = backdrop(rng, KINDS[rng.integers(len(KINDS))].scene, size)
    y, x = np.mgrid[:size, :size].astype(np.float32) / np.float32(size)
    patch = np.sin(coordinates(rng, x, y, PATCHES)[0]) > 0
    return ramps[patch.astype(np.uint8), gray], ramps


def shared(rng: Generator, kind: Kind, size: int) -> tuple[Pixels, Pixels, Pixels]:
    """The same, with any scene, and object and scene in the same two color ramps."""
    ground, ramps = plain(rng, size)
    parts = kind.paint(rng)
    seen = cover(parts, pose(rng, parts), OVER * size)
    return ground, textured(rng, seen, kind.coarse, KINDS.index(kind) % 2, ramps), seen


def laid(rng: Generator, ground: Light, above: Pixels, share: Light) -> Light:
    """``above``, which covers ``share`` of a pixel, laid on ``ground`` with its shadow: (size, size, 3)."""
    size = len(ground)
    shift = np.array([[1, 0, rng.uniform(-0.05, 0.05) * size], [0, 1, 0.04 * size]], dtype=np.float32)
    shadow = cv2.warpAffine(cv2.GaussianBlur(share, (0, 0), size * 0.02), shift, (size, size))
    left = (1 - share) * (1 - np.float32(0.45) * shadow)
    return np.asarray(ground * left[..., None] + above / np.float32(255), np.float32)


def lit(rng: Generator, light: Light) -> Pixels:
    """The image under some light: brightness, contrast, tint, a gradient across it, haze, blur and grain.

    These vary more than the content, as in photographs, and are independent of the class.
    """
    size = len(light)
    light = light ** np.float32(np.exp(rng.normal(0, 0.35)))
    across = np.linspace(-1, 1, size, dtype=np.float32)
    angle, slope = rng.uniform(0, TURN), rng.uniform(0, 0.35)
    light *= (1 + slope * np.add.outer(np.sin(angle) * across, np.cos(angle) * across))[..., None]
    contrast, level = rng.uniform(0.45, 1.1), rng.uniform(0.25, 0.75)
    tint = np.exp(rng.normal(0, 0.08, 3))
    light = light * np.float32(contrast * tint) + np.float32((level - contrast * light.mean()) * tint)
    if rng.random() < 0.5:
        light = np.asarray(cv2.GaussianBlur(light, (0, 0), rng.uniform(0.3, 0.9) * size / 96), np.float32)
    light += np.float32(rng.uniform(0, 0.05)) * rng.standard_normal(light.shape, np.float32)
    return (light.clip(0, 1) * 255).astype(np.uint8)


def light_of(pixels: Pixels) -> Light:
    """Bytes as numbers of 0 to 1, float32."""
    light: Light = np.divide(pixels, 255, dtype=np.float32)
    return light


def placed(rng: Generator, ground: Light, canvas: Pixels, seen: Pixels) -> tuple[Light, Pixels]:
    """An object laid on ``ground``.

    Args:
        rng: random numbers.
        ground: the image below it, (size, size, 3).
        canvas: the object, :data:`OVER` times larger.
        seen: its parts, :data:`OVER` times larger.

    Returns:
        The image (size, size, 3), and the part numbers uint8 (size, size).
    """
    rim = cv2.morphologyEx(seen, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    canvas[rim] //= 2
    share = light_of(halved(np.where(seen > 0, 255, 0).astype(np.uint8)))
    parts = np.ascontiguousarray(seen[OVER // 2 :: OVER, OVER // 2 :: OVER])
    return laid(rng, ground, halved(canvas), share), parts


def paint(rng: Generator, kind: Kind, size: int, surroundings: Surroundings) -> tuple[Pixels, Pixels]:
    """An image of this kind and its parts: RGB uint8 (size, size, 3) and part numbers uint8 (size, size)."""
    ground, canvas, seen = (shared if surroundings == "shared" else fixed)(rng, kind, size)
    light, parts = placed(rng, light_of(ground), canvas, seen)
    return lit(rng, light), parts


def paint_many(rng: Generator, kinds: Sequence[Kind], size: int) -> tuple[Pixels, Pixels]:
    """An image with an object of each of up to four kinds, each in a quarter of its own, on any scene.

    Returns:
        RGB uint8 (size, size, 3), and at each pixel the object that is seen: uint8 (size, size), 0 for the
        surroundings, 1, 2, ... in the order of ``kinds``.
    """
    ground, ramps = plain(rng, size)
    light = light_of(ground)
    objects_seen = np.zeros((size, size), np.uint8)
    for number, (kind, quarter) in enumerate(zip(kinds, rng.permutation(4), strict=False), start=1):
        parts = kind.paint(rng)
        center = np.array([quarter % 2 - 0.5, quarter // 2 - 0.5])
        seen = cover(parts, small_pose(rng, center), OVER * size)
        canvas = textured(rng, seen, kind.coarse, KINDS.index(kind) % 2, ramps)
        light, inside = placed(rng, light, canvas, seen)
        objects_seen[inside > 0] = number
    return lit(rng, light), objects_seen


def halved(large: Pixels) -> Pixels:
    """The image averaged down by :data:`OVER`."""
    side = len(large) // OVER
    return np.asarray(cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
