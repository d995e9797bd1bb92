"""The values that the recipes' numbers may have, by the names of their fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, NamedTuple

MOST = 2**31 - 1
"""The largest whole number of a setting: sizes, counts and steps are held in 32 bits somewhere."""


class Range(NamedTuple):
    """The values from ``low`` to ``high``, or between them where an end is open."""

    low: float
    high: float = math.inf
    above: bool = False
    """True if ``low`` itself is too small."""
    below: bool = False
    """True if ``high`` itself is too large."""


SHARE, PART = Range(0, 1), Range(0, 1, below=True)
RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("workers", "knn_every", "eval_every", "eval_size", "shorter", "window"), Range(0)),
    **dict.fromkeys(("stride", "blur", "mixup", "cutmix", "weight_decay", "lr"), Range(0)),
    **dict.fromkeys(("batch_size", "image_size", "hidden", "out_dim"), Range(1)),
    **{"level": Range(-1), "temperature": Range(0, above=True), "crop_min": Range(0, 1, above=True)},
    **dict.fromkeys(("drop_path", "smoothing", "ema"), PART),
    **dict.fromkeys(("erase", "momentum"), SHARE),
}


def out_of_range(settings: Any) -> list[str]:
    """What is wrong with the numbers of settings, in words.

    Args:
        settings: a dataclass. A field whose default is 0 may be 0, which stands for another value then.
    """
    return [problem for part in fields(settings) if (problem := _problem(part, getattr(settings, part.name)))]


def _problem(part: Field[Any], value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    whole = isinstance(value, int)
    if part.name in RANGES:
        low, high, above, below = RANGES[part.name]
        low = min(low, 0) if part.default == 0 else low
    elif whole and part.name != "seed":
        low, high, above, below = Range(-math.inf)  # Its config checks whether it is too small.
    else:
        return ""
    if whole:
        fits, expected = low <= value <= MOST, _whole(low, value)
    else:
        fits = (low < value if above else low <= value) and (value < high if below else value <= high)
        fits, expected = fits and math.isfinite(value), _spell(low, high, above, below)
    return "" if fits else f"--{part.name.replace('_', '-')}: got {value}, expected {expected}"


def _whole(low: float, value: float) -> str:
    return f"a whole number from {low}" if value < low else f"a whole number up to {MOST}"


def _spell(low: float, high: float, above: bool, below: bool) -> str:
    start = f"above {low:g}" if above else f"{low:g}"
    if high == math.inf:
        return f"a number {start}" if above else f"a number from {start}"
    return f"a number {'' if above else 'from '}{start} to {'below ' if below else ''}{high:g}"
