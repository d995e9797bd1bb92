"""Published classes of pixels: their names and colors, from packaged tables that each name their source."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

Color = tuple[int, int, int]
"""RGB, 0 to 255."""


class PixelClasses(NamedTuple):
    """The classes of a data set of label maps.

    Attributes:
        names: by class number.
        palette: the color of each class in pictures of segmentations.
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...]

    def drop_first(self) -> PixelClasses:
        """The same without the first class, as after ``reduce_zero_label``."""
        return PixelClasses(self.names[1:], self.palette[1:])


@cache
def pixel_classes(name: str) -> PixelClasses:
    """The classes of ``voc``, ``ade20k``, ``pascal-context`` (60 of them) or ``cityscapes``."""
    table = json.loads((Path(__file__).with_name(f"{name}.json")).read_text(encoding="utf-8"))
    names = tuple(table["names"])
    palette = tuple((red, green, blue) for red, green, blue in table.get("palette", ()))
    return PixelClasses(names, palette or voc_palette(len(names)))


def voc_palette(classes: int) -> tuple[Color, ...]:
    """The first colors of PASCAL VOC, by the rule of its development kit (``VOCcolormap``).

    The bits of a class number, from the lowest, become bits of red, green, blue, red, ..., from the highest.
    """
    return tuple((_channel(number, 0), _channel(number, 1), _channel(number, 2)) for number in range(classes))


def _channel(number: int, first: int) -> int:
    return sum((number >> (3 * bit + first) & 1) << (7 - bit) for bit in range(8))
