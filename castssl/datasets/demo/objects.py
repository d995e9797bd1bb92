"""The objects of the demo images, each made of named parts.

An object is a list of :class:`Part` in its own frame: about [-1, 1] x [-1, 1], x to the right and y down,
facing right.  Proportions vary from image to image; part numbers and names do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from castssl.datasets.demo.scenes import TURN, Points, ellipse


class Part(NamedTuple):
    """One part: polygons that are drawn over the parts before it.

    Attributes:
        number: the index into :data:`PARTS` of its class, from 1; a number may occur twice (two wheels).
        points: (n, corners, 2).
    """

    number: int
    points: Points


Object = Callable[[Generator], list[Part]]

PARTS: dict[str, tuple[str, ...]] = {
    "boat": ("hull", "sail", "foresail", "mast"),
    "fish": ("body", "tail", "fin", "eye"),
    "house": ("wall", "roof", "door", "window", "chimney"),
    "car": ("body", "cabin", "wheel", "lamp"),
    "sheep": ("fleece", "head", "leg", "ear"),
    "butterfly": ("forewing", "hindwing", "body", "spot"),
    "plane": ("fuselage", "wing", "fin", "window"),
    "balloon": ("envelope", "stripe", "basket", "rope"),
}
"""The names of the values 1, 2, ... of a part mask, for each class."""


def shape(*corners: tuple[float, float]) -> Points:
    """One polygon: (1, corners, 2)."""
    return np.array(corners, dtype=np.float64)[None]


def oval(x: float, y: float, across: float, up: float, angle: float = 0.0) -> Points:
    """One ellipse: (1, 28, 2)."""
    return ellipse(np.array([[x, y]]), np.array([[across, up]]), angle, 28)


def boat(rng: Generator) -> list[Part]:
    """A sailing boat."""
    top, lean = rng.uniform(-1.0, -0.85), rng.uniform(-0.05, 0.1)
    bow, deep = rng.uniform(0.85, 1.0), rng.uniform(0.7, 0.9)
    return [
        Part(4, shape((-0.06, 0.4), (0.04, 0.4), (0.04 + lean, top), (-0.04 + lean, top))),
        Part(2, shape((-0.1, 0.22), (-0.08 + lean, top), (-0.5, -0.35), (rng.uniform(-0.95, -0.75), 0.22))),
        Part(3, shape((0.1, 0.22), (0.06 + lean, top + 0.1), (rng.uniform(0.6, 0.85), 0.22))),
        Part(1, shape((-0.95, 0.32), (bow, 0.32), (0.62, deep), (-0.68, deep))),
    ]


def fish(rng: Generator) -> list[Part]:
    """A fish seen from the side."""
    high, fork = rng.uniform(0.42, 0.6), rng.uniform(0.4, 0.65)
    return [
        Part(2, shape((-0.45, 0.0), (-1.0, -fork), (-0.78, 0.0), (-1.0, fork))),
        Part(3, shape((-0.3, -high * 0.7), (-0.1, -high - 0.32), (0.4, -high * 0.6))),
        Part(3, shape((-0.15, high * 0.7), (-0.1, high + 0.28), (0.25, high * 0.7))),
        Part(1, oval(0.2, 0.0, 0.78, high)),
        Part(3, shape((0.12, -0.05), (-0.32, 0.05), (-0.22, 0.3))),
        Part(4, oval(0.62, -0.12, 0.12, 0.12)),
    ]


def house(rng: Generator) -> list[Part]:
    """A house with a gable roof."""
    eaves, wide = rng.uniform(-0.2, 0.0), rng.uniform(0.7, 0.85)
    door = rng.choice([-0.45, 0.0, 0.4])
    panes = [x for x in (-0.45, 0.0, 0.4) if x != door]
    chimney = rng.choice([-0.5, 0.5])
    return [
        Part(
            5,
            shape(*[(chimney + x, y) for x, y in ((-0.12, -0.9), (0.12, -0.9), (0.12, -0.2), (-0.12, -0.2))]),
        ),
        Part(1, shape((-wide, eaves), (wide, eaves), (wide, 0.95), (-wide, 0.95))),
        Part(2, shape((-1.0, eaves + 0.06), (-0.2, -1.0), (0.2, -1.0), (1.0, eaves + 0.06))),
        Part(3, shape(*[(door + x, y) for x, y in ((-0.16, 0.4), (0.16, 0.4), (0.16, 0.95), (-0.16, 0.95))])),
        *[
            Part(4, shape((x - 0.16, 0.25), (x + 0.16, 0.25), (x + 0.16, 0.6), (x - 0.16, 0.6)))
            for x in panes
        ],
    ]


def car(rng: Generator) -> list[Part]:
    """A car seen from the side."""
    roof, rear, front = rng.uniform(-0.62, -0.5), rng.uniform(-0.75, -0.5), rng.uniform(0.3, 0.45)
    wheel = rng.uniform(0.2, 0.26)
    return [
        Part(2, shape((rear, -0.02), (rear + 0.2, roof), (front - 0.12, roof), (front + 0.2, -0.02))),
        Part(1, shape((-1.0, 0.05), (-0.9, -0.08), (0.65, -0.08), (0.95, 0.1), (1.0, 0.45), (-1.0, 0.45))),
        Part(4, oval(0.9, 0.2, 0.09, 0.09)),
        Part(3, oval(-0.55, 0.45, wheel, wheel)),
        Part(3, oval(0.55, 0.45, wheel, wheel)),
    ]


def sheep(rng: Generator) -> list[Part]:
    """A sheep, its fleece of round tufts."""
    t = np.arange(9) * TURN / 9 + rng.uniform(0, TURN)
    tufts = np.stack([0.5 * np.cos(t) - 0.12, 0.3 * np.sin(t) - 0.08], -1)
    fleece = ellipse(tufts, np.tile(rng.uniform(0.24, 0.3, (9, 1)), (1, 2)))
    down = rng.uniform(-0.3, 0.15)
    legs = [x + rng.uniform(-0.06, 0.06) for x in (-0.5, -0.25, 0.1, 0.3)]
    return [
        *[Part(3, shape((x - 0.07, 0.2), (x + 0.07, 0.2), (x + 0.06, 0.85), (x - 0.06, 0.85))) for x in legs],
        Part(1, oval(-0.12, -0.08, 0.6, 0.4)),
        Part(1, fleece),
        Part(2, oval(0.72, down, 0.26, 0.2, rng.uniform(0.2, 0.8))),
        Part(4, oval(0.5, down - 0.12, 0.16, 0.08, rng.uniform(-0.6, 0.2))),
    ]


def butterfly(rng: Generator) -> list[Part]:
    """A butterfly with open wings, seen from above."""
    spread, up = rng.uniform(0.42, 0.5), rng.uniform(0.4, 0.8)
    parts = []
    for side in (-1, 1):
        parts += [
            Part(2, oval(side * 0.38, 0.42, 0.38, 0.34, side * 0.7)),
            Part(1, oval(side * 0.5, -0.32, spread + 0.05, 0.42, -side * up)),
            Part(4, oval(side * 0.58, -0.38, 0.17, 0.15)),
            Part(4, oval(side * 0.4, 0.45, 0.11, 0.11)),
        ]
    return [*parts, Part(3, oval(0.0, 0.02, 0.09, 0.62))]


def plane(rng: Generator) -> list[Part]:
    """A plane, its near wing towards us."""
    sweep, fin = rng.uniform(-0.55, -0.3), rng.uniform(-0.7, -0.55)
    panes = [Part(4, oval(x, -0.08, 0.07, 0.07)) for x in (-0.3, 0.0, 0.3, 0.6)]
    return [
        Part(2, shape((0.1, -0.1), (0.4, -0.1), (sweep + 0.5, -0.6), (sweep + 0.3, -0.6))),
        Part(3, shape((-0.98, fin), (-0.75, fin), (-0.4, -0.1), (-0.85, 0.0))),
        Part(
            1,
            shape(
                (-0.98, -0.08),
                (-0.7, -0.2),
                (0.6, -0.22),
                (0.9, -0.1),
                (1.0, 0.05),
                (0.85, 0.18),
                (-0.4, 0.2),
            ),
        ),
        *panes,
        Part(2, shape((-0.15, 0.06), (0.4, 0.06), (sweep + 0.1, 0.8), (sweep - 0.18, 0.8))),
    ]


def balloon(rng: Generator) -> list[Part]:
    """A hot-air balloon."""
    wide, low = rng.uniform(0.66, 0.78), rng.uniform(0.66, 0.72)
    cords = [
        shape((x, 0.2), (x + 0.06, 0.2), (x * 0.3 + 0.03, low), (x * 0.3 - 0.03, low)) for x in (-0.4, 0.36)
    ]
    return [
        *[Part(4, cord) for cord in cords],
        Part(1, shape((-wide * 0.86, -0.1), (wide * 0.86, -0.1), (0.2, 0.5), (-0.2, 0.5))),
        Part(1, oval(0.0, -0.32, wide, 0.68)),
        *[Part(2, oval(x * wide, -0.3, 0.13, 0.6 - 0.35 * abs(x))) for x in (-0.6, 0.0, 0.6)],
        Part(3, shape((-0.2, low), (0.2, low), (0.16, 1.0), (-0.16, 1.0))),
    ]
