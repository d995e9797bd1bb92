"""Colors that show a hierarchy: a whole is a hue, its parts are shades of that hue.

CAST, https://arxiv.org/abs/2210.00314, figures 5 and 7: 8-way segments differ in hue, the 16-way segments
within one of them in saturation, the 32-way segments within one of those in value.  Here for any number
of maps: the coarsest gets hues, then saturation, value, and a little hue take turns.  They are measured
in OKLab, https://bottosson.github.io/posts/oklab, where even steps look even: lightness is its value,
and saturation is chroma as a share of what the screen can show at that lightness and hue.

Colors depend on the regions alone, never on how they happen to be numbered: slots of the
palette are dealt in reading order, then swapped until regions that touch differ as much as they can.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

NOTHING = (70, 70, 74)
"""The color of pixels that belong to no region."""
WHOLE = (0.73, 0.69)
"""Lightness and saturation of the coarsest regions."""
SPREAD = (0.15, 0.23)
"""How far the parts of one whole may be from it, in lightness and in saturation."""
LOUDEST = 0.2
"""The chroma of saturation 1, where the screen can show it."""
FIRST_HUE = 0.07
"""The hue of the first whole, in turns: a soft red."""
SWAPS = 200
"""How often colors may change places, at most."""


def paint(levels: Sequence[Tensor]) -> list[Bytes]:
    """A color image of each label map, all consistent with each other.

    Args:
        levels: integer (H, W) label maps of one size, fine to coarse, such as ``Hierarchy.labels(i)[0]``;
            a negative label belongs to no region.  A region that lies in several regions of the next
            map counts as a part of the one it overlaps most.

    Returns:
        uint8 (H, W, 3) RGB images, in the order of ``levels``.

    Raises:
        ValueError: if there is no map, or they are not (H, W) of one size.
    """
    shapes = sorted({tuple(level.shape) for level in levels})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"paint: expected one or more label maps (H, W) of one size, got {shapes}")
    maps = [numbered(level) for level in levels]
    shades = _wholes(maps[-1])
    reach = (*SPREAD, min(0.06, 0.3 / max(len(shades), 1)))
    painted = [_fill(maps[-1], shades)]
    for depth, part in enumerate(maps[-2::-1]):
        channel = (1, 0, 2)[depth % 3]
        shades = _parts(part, maps[-1 - depth], shades, channel, reach[channel] / 3 ** (depth // 3))
        painted.append(_fill(part, shades))
    return painted[::-1]


def numbered(labels: Tensor) -> Ints:
    """The same regions, numbered 0, 1, ... in reading order of their first pixel; -1 for no region."""
    flat = labels.detach().cpu().numpy().astype(np.int64)
    old, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    number = np.full(len(old), -1, dtype=np.int64)
    real = np.flatnonzero(old >= 0)
    number[real[np.argsort(first[real])]] = np.arange(len(real))
    return number[inverse].reshape(flat.shape)


def contacts(regions: Ints) -> Floats:
    """How many pixel sides each two of R numbered regions share: symmetric (R, R), 0 on the diagonal."""
    count = int(regions.max(initial=-1)) + 1
    ahead = np.concatenate([regions[:, 1:].ravel(), regions[1:].ravel()])
    behind = np.concatenate([regions[:, :-1].ravel(), regions[:-1].ravel()])
    real = (ahead != behind) & (ahead >= 0) & (behind >= 0)
    sides = np.bincount(ahead[real] * count + behind[real], minlength=count * count)
    table = sides.reshape(count, count).astype(np.float64)
    both: Floats = table + table.T
    return both


def arrange(touching: Floats, alike: Floats) -> Ints:
    """The slot of each of R regions, such that regions that touch get slots that are not alike.

    Begins with slot r for region r, and makes the swap that helps most until none helps: a local
    optimum of a quadratic assignment, the same every time.

    Args:
        touching: symmetric (R, R), how much two regions touch; 0 on the diagonal.
        alike: symmetric (R, R), how alike two slots are.

    Returns:
        int64 (R,), a permutation.
    """
    slots = np.arange(len(touching))
    for _ in range(SWAPS if len(slots) > 1 else 0):
        now = alike[np.ix_(slots, slots)]
        cross, same = touching @ now, now.diagonal()
        own = cross.diagonal()
        change = cross + cross.T - own - own[:, None] - touching * (same + same[:, None] - 2 * now)
        a, b = np.unravel_index(change.argmin(), change.shape)
        if change[a, b] > -1e-9:
            break
        slots[[a, b]] = slots[[b, a]]
    return slots


def rgb(shades: Floats) -> Bytes:
    """Lightness 0 to 1, saturation 0 to 1 and hue in turns (R, 3) -> sRGB uint8 (R, 3)."""
    lightness, saturation, hue = shades.T
    loudness = np.linspace(LOUDEST, 0, 41)[:, None]
    linear = _linear(np.broadcast_to(lightness, (41, len(hue))), loudness, hue)
    shows = ((linear > -1e-4) & (linear < 1 + 1e-4)).all(-1)
    linear = _linear(lightness, saturation * loudness[shows.argmax(0), 0], hue).clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colors: Bytes = np.rint(255 * curved).astype(np.uint8)
    return colors


def _linear(lightness: Floats, chroma: Floats, hue: Floats) -> Floats:
    """OKLab's lightness, chroma and hue in turns -> linear sRGB (..., 3), maybe outside [0, 1]."""
    a, b = chroma * np.cos(2 * np.pi * hue), chroma * np.sin(2 * np.pi * hue)
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ],
        -1,
    )
    to_screen = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear: Floats = cones**3 @ to_screen.T
    return linear


def _wholes(regions: Ints) -> Floats:
    """Shades (R, 3) of the coarsest regions: evenly spaced hues, far apart where regions touch."""
    touching = np.sqrt(contacts(regions))
    turns = np.arange(len(touching)) / max(len(touching), 1)
    apart = np.abs(turns[:, None] - turns)
    hues = turns[arrange(touching, (1 - 2 * np.minimum(apart, 1 - apart)) ** 2)] + FIRST_HUE
    return np.stack([np.full_like(hues, WHOLE[0]), np.full_like(hues, WHOLE[1]), hues], 1)


def _parts(regions: Ints, wholes: Ints, shades: Floats, channel: int, reach: float) -> Floats:
    """Shades (R, 3) of ``regions``: those of their wholes, spread evenly over +-``reach`` in one channel."""
    touching = np.sqrt(contacts(regions))
    parents = _parents(regions, wholes)
    gray = (WHOLE[0], 0.0, 0.0)  # the last row, where an index of -1 looks
    spread: Floats = np.vstack([shades, gray])[parents]
    for whole in range(len(shades)):
        family = np.flatnonzero(parents == whole)
        if len(family) > 1:
            offsets = np.linspace(reach, -reach, len(family)) * (1 - 0.5 / len(family))
            alike = -np.abs(offsets[:, None] - offsets)
            spread[family, channel] += offsets[arrange(touching[np.ix_(family, family)], alike)]
    return spread


def _parents(regions: Ints, wholes: Ints) -> Ints:
    """The whole that each region overlaps most: (R,), -1 for those that lie in none."""
    rows, columns = int(regions.max(initial=-1)) + 1, int(wholes.max(initial=-1)) + 2
    real = regions >= 0
    table = np.bincount(regions[real] * columns + wholes[real] + 1, minlength=rows * columns)
    parents: Ints = table.reshape(rows, columns).argmax(1) - 1
    return parents


def _fill(regions: Ints, shades: Floats) -> Bytes:
    filled: Bytes = np.concatenate([rgb(shades), np.array([NOTHING], np.uint8)])[regions]
    return filled
