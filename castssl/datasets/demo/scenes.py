"""The surroundings of the demo images: one kind of pattern for each class, drawn in tones of gray.

A scene is a list of :class:`Stroke`, in units of the image's half side: the image shows [-1, 1] x
[-1, 1], and a scene reaches far enough beyond it to be turned and shifted.  ``period`` is how far apart a
pattern repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""Polygons of equal length: (n, corners, 2), x to the right and y down."""
REACH = 1.6
"""How far a scene reaches: a turned, shifted image stays inside."""
TURN = 2 * np.pi


class Stroke(NamedTuple):
    """Polygons, or lines if ``width`` is given, of one tone; later strokes cover earlier ones.

    Attributes:
        points: (n, corners, 2).
        tone: 0 darkest to 1 lightest of the image's color ramp.
        width: of a line in half sides; None fills.
        heaped: True where the polygons overlap: each is filled separately (slower), and none cancels another.
    """

    points: Points
    tone: float
    width: float | None = None
    heaped: bool = False


Scene = Callable[[Generator, float], list[Stroke]]


def ellipse(points: Points, radii: Points, angle: Points | float = 0.0, corners: int = 14) -> Points:
    """Ellipses around ``points`` (n, 2) with ``radii`` (n, 2), turned by ``angle`` (n,): (n, corners, 2)."""
    t = np.linspace(0, TURN, corners, endpoint=False)
    x, y = radii[:, :1] * np.cos(t), radii[:, 1:] * np.sin(t)
    a = np.broadcast_to(np.asarray(angle, dtype=np.float64), (len(points),))[:, None]
    turned = np.stack([x * np.cos(a) - y * np.sin(a), x * np.sin(a) + y * np.cos(a)], -1)
    return turned + points[:, None]


def box(low: Points, high: Points) -> Points:
    """Rectangles from ``low`` (n, 2) to ``high`` (n, 2): (n, 4, 2)."""
    x0, y0, x1, y1 = low[:, 0], low[:, 1], high[:, 0], high[:, 1]
    return np.stack([x0, y0, x1, y0, x1, y1, x0, y1], -1).reshape(-1, 4, 2)


def ground(tone: float) -> Stroke:
    """What lies under everything else."""
    return Stroke(box(np.full((1, 2), -2 * REACH), np.full((1, 2), 2 * REACH)), tone)


def jittered_grid(rng: Generator, period: float, jitter: float = 0.4) -> Points:
    """Jittered grid points over the whole reach, top to bottom: (n, 2)."""
    steps = np.arange(-REACH, REACH + period, period)
    points = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    points = points + rng.uniform(-jitter, jitter, points.shape) * period
    return np.asarray(points[np.argsort(points[:, 1], kind="stable")])


def toned(rng: Generator, polygons: Points, low: float, high: float, groups: int = 4) -> list[Stroke]:
    """The polygons in a few tones, drawn in their order within each tone."""
    pick = rng.integers(groups, size=len(polygons))
    return [Stroke(polygons[pick == g], low + (high - low) * g / max(groups - 1, 1)) for g in range(groups)]


def waves(rng: Generator, period: float) -> list[Stroke]:
    """Rows of wave crests, the nearer ones in front."""
    x = np.linspace(-REACH, REACH, 120)
    strokes = []
    for row in np.arange(-REACH, REACH, period * 0.7):
        phase, height = rng.uniform(0, TURN), period * rng.uniform(0.35, 0.5)
        crest = row - height * np.abs(np.sin(np.pi * x / (period * 1.6) + phase))
        line = np.stack([x, crest], -1)
        below = np.stack([x[::-1], np.full_like(x, row + 2 * period)], -1)
        strokes.append(Stroke(np.concatenate([line, below])[None], rng.uniform(0.15, 0.6)))
        strokes.append(Stroke(line[None], rng.uniform(0.85, 1.0), 0.16 * period))
    return strokes


def depths(rng: Generator, period: float) -> list[Stroke]:
    """Weed swaying in deep water, with bubbles rising."""
    x = np.arange(-REACH, REACH, period * 0.8)
    x = x + rng.uniform(-0.3, 0.3, x.shape) * period
    y = np.linspace(-REACH, REACH, 60)
    phase = rng.uniform(0, TURN, (len(x), 1))
    sway = x[:, None] + 0.32 * period * np.sin(TURN * y / (2.2 * period) + phase)
    weed = np.stack([sway, np.broadcast_to(y, sway.shape)], -1)
    points = jittered_grid(rng, period * 0.9)
    radius = rng.uniform(0.08, 0.24, (len(points), 1)) * period
    bubbles = ellipse(points, np.repeat(radius, 2, 1))
    near = rng.random(len(x)) < 0.5
    return [
        ground(0.35),
        Stroke(weed[near], 0.08, 0.3 * period),
        Stroke(weed[~near], 0.6, 0.22 * period),
        Stroke(bubbles, 0.95, 0.07 * period),
    ]


def windows(rng: Generator, period: float) -> list[Stroke]:
    """House fronts with rows of windows, some of them lit."""
    strokes = []
    left = -REACH
    while left < REACH:
        columns = int(rng.integers(2, 4))
        wide = columns * period * 0.75
        front = box(np.array([[left, -REACH]]), np.array([[left + wide, REACH]]))
        strokes.append(Stroke(front, rng.uniform(0.35, 0.65)))
        x = left + (np.arange(columns) + 0.5) * period * 0.75
        y = np.arange(-REACH, REACH, period * 1.05) + rng.uniform(0, period)
        points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        half = np.array([0.2, 0.32]) * period
        panes = box(points - half, points + half)
        lit = rng.random(len(points)) < 0.4
        strokes += [Stroke(panes[lit], 1.0), Stroke(panes[~lit], 0.02)]
        left += wide + 0.12 * period
    return strokes


def bricks(rng: Generator, period: float) -> list[Stroke]:
    """A wall of bricks in running bond."""
    long, high, gap = period * 1.3, period * 0.55, period * 0.09
    rows = np.arange(-REACH, REACH, high)
    x = np.arange(-REACH - long, REACH, long)
    low = np.stack(np.meshgrid(x, rows), -1)
    low[1::2, :, 0] += long / 2
    low = low.reshape(-1, 2)
    return [
        ground(1.0),
        *toned(rng, box(low, low + np.array([long - gap, high - gap])), 0.15, 0.6),
    ]


def grass(rng: Generator, period: float) -> list[Stroke]:
    """Blades of grass, dense and upright."""
    points = jittered_grid(rng, period * 0.42)
    lean, long = rng.normal(0, 0.35, len(points)), period * rng.uniform(0.8, 1.4, len(points))
    wide = period * rng.uniform(0.07, 0.12, len(points))
    tip = points + np.stack([np.sin(lean), -np.cos(lean)], -1) * long[:, None]
    bend = (points + tip) / 2 + np.stack([lean * 0.15 * period, np.zeros(len(points))], -1)
    side = np.stack([wide, np.zeros(len(points))], -1)
    blades = np.stack([points - side, bend - side, tip, bend + side, points + side], 1)
    return [ground(0.1), *toned(rng, blades, 0.25, 0.95, 5)]


def blossoms(rng: Generator, period: float) -> list[Stroke]:
    """Flowers of five petals among round leaves."""
    points = jittered_grid(rng, period * 0.7)
    size = period * rng.uniform(0.22, 0.3, (len(points), 1))
    leaves = ellipse(points, size * [[1.5, 0.8]], rng.uniform(0, TURN, len(points)))
    points = jittered_grid(rng, period * 1.15)
    size = period * rng.uniform(0.2, 0.28, (len(points), 1))
    turn = rng.uniform(0, TURN, (len(points), 1)) + np.arange(5) * TURN / 5
    out = np.stack([np.cos(turn), np.sin(turn)], -1)
    center = (points[:, None] + out * size[:, None]).reshape(-1, 2)
    petals = ellipse(center, np.repeat(size, 5, 0) * [[0.85, 0.55]], turn.reshape(-1))
    hearts = ellipse(points, np.repeat(size * 0.5, 2, 1), corners=8)
    return [
        ground(0.05),
        *toned(rng, leaves, 0.18, 0.45, 3),
        Stroke(petals, 0.92, heaped=True),
        Stroke(hearts, 0.3),
    ]


def streaks(rng: Generator, period: float) -> list[Stroke]:
    """High clouds drawn out by the wind."""
    points = jittered_grid(rng, period * 0.62)
    long = period * rng.uniform(0.6, 1.6, len(points))
    thick = period * rng.uniform(0.04, 0.13, len(points))
    tilt = rng.uniform(-0.4, 0.4) + rng.normal(0, 0.08, len(points))
    lenses = ellipse(points, np.stack([long, thick], -1), tilt, 10)
    return [ground(0.25), *toned(rng, lenses, 0.45, 1.0)]


def puffs(rng: Generator, period: float) -> list[Stroke]:
    """Heaped clouds, light above and shaded below."""
    points = jittered_grid(rng, period * 1.5)
    offset = rng.normal(0, 1, (len(points), 5, 2)) * [0.36, 0.12] * period
    center = (points[:, None] + offset).reshape(-1, 2)
    radius = period * rng.uniform(0.22, 0.42, (len(center), 1))
    shade = ellipse(center + np.array([0, 0.12 * period]), np.repeat(radius, 2, 1))
    light = ellipse(center - np.array([0, 0.04 * period]), np.repeat(radius * 0.9, 2, 1))
    return [ground(0.2), Stroke(shade, 0.6, heaped=True), Stroke(light, 1.0, heaped=True)]
