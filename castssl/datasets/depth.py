"""Images of more than 8 bits become 8 bits, by the range that their file declares, never by their content.

A scale that is computed from the content makes an image's brightness depend on its brightest pixel.  So the
range comes from the user, else from the tags of a TIFF file (TIFF 6.0, sections 8 and 19), else from the
format.  An image whose range nothing declares is refused.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from castssl.datasets.text import read_query
from castssl.errors import DataError

SCALED = ("PNG", "PPM", "JPEG2000")
"""Formats in which PIL returns more than 8 bits scaled to 16, whatever the file's depth is."""
WIDE = 16
_BITS, _PHOTOMETRIC, _FORMAT, _LEAST, _MOST = 258, 262, 339, 340, 341
HINT = (
    "declare the values of black and white: --range LOW:HIGH or --bits N of a command, ?range=LOW:HIGH or"
    " ?bits=N at the end of the data's name, such as folder:/path?range=0:1"
)


class Range(NamedTuple):
    """The values that become black and white."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}"


def parse_range(text: str) -> Range:
    """A range as ``LOW:HIGH``, such as ``0:4095``.

    Raises:
        DataError: if the text is anything else, or LOW is not below HIGH.
    """
    low, _, high = text.partition(":")
    try:
        limits = Range(float(low), float(high))
    except ValueError:
        limits = Range(0, 0)
    if not 0 < limits.high - limits.low < math.inf:
        raise DataError(f"range: got {text!r}, expected LOW:HIGH with LOW below HIGH, such as 0:4095")
    return limits


def range_of_bits(text: str) -> Range:
    """The range of unsigned integers of so many bits: 12 gives 0 to 4095.

    Raises:
        DataError: if the text is not a whole number from 1 to 32.
    """
    if not (text.isdecimal() and text.isascii() and 1 <= int(text) <= 32):
        raise DataError(f"bits: got {text!r}, expected a whole number from 1 to 32, such as 12")
    return Range(0, 2 ** int(text) - 1)


def split_range(spec: str) -> tuple[str, Range | None]:
    """The name of a data set without its option ``range=LOW:HIGH`` or ``bits=N``, and the range.

    Raises:
        DataError: if the option is not understood, or both are given.
    """
    base, mark, query = spec.rpartition("?")
    options = read_query(query)
    ranges = [(key, value) for key, value in options if key in ("range", "bits")]
    if not mark or not ranges:
        return spec, None
    if len(ranges) > 1:
        raise DataError(f"{spec}: got {len(ranges)} ranges, expected one of range=LOW:HIGH and bits=N")
    key, value = ranges[0]
    rest = [pair for pair in options if pair not in ranges]
    name = f"{base}?{urlencode(rest, safe='/:', quote_via=quote)}" if rest else base
    return name, parse_range(value) if key == "range" else range_of_bits(value)


def is_deep(image: Image.Image) -> bool:
    """Whether PIL returns more than 8 bits of an image: modes I, I;16 and F."""
    return image.mode.startswith(("I", "F"))


def eight_bits(image: Image.Image, declared: Range | None) -> tuple[Image.Image, str]:
    """A deep image, loaded, as mode "L", and a remark on lost values: "" if there are none.

    Args:
        image: of one channel; :func:`is_deep`.
        declared: the user's range, which takes precedence over the file's.

    Raises:
        DataError: if nothing declares the range.
    """
    gray, remark = to_bytes(
        _values(image), declared or _range(image), inverted=_tag(image, _PHOTOMETRIC) == 0
    )
    return Image.fromarray(gray), remark


def to_bytes(
    values: NDArray[np.float64], scale: Range, *, inverted: bool = False
) -> tuple[NDArray[np.uint8], str]:
    """Values of any shape as shares of a range, 0 to 255, and a remark on those that are lost.

    Args:
        values: NaN becomes black.
        scale: of black and white.
        inverted: whether the lowest value is white.
    """
    low, high = scale
    finite = np.isfinite(values)
    lost = [f"{(~finite).sum()} values that are NaN or infinite"] if not finite.all() else []
    outside = finite & ((values < low) | (values > high))
    if outside.any():
        least, most = values[finite].min(), values[finite].max()
        lost.append(f"{outside.sum()} values outside {scale} (they reach from {least:g} to {most:g})")
    shares = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low)
    shares = 1 - shares if inverted else shares
    remark = f"clipped {' and '.join(lost)}" if lost else ""
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8), remark


def refuse_range(image: Image.Image, declared: Range | None) -> None:
    """Refuse a range for an image of 16 bits a channel that PIL has reduced to 8 bits.

    Raises:
        DataError: if so, and a range was declared.
    """
    reduced = isinstance(image, ImageFile) and ";16" in str(image.tile) and not is_deep(image)
    if declared is not None and reduced:
        raise DataError(
            f"16 bits a channel, of which PIL reads the upper 8: the range {declared} cannot be applied;"
            " convert such images to 8 bits first"
        )


def _tag(image: Image.Image, tag: int) -> float | None:
    """The first number of a TIFF tag; None without that tag or in another format."""
    return first_number(image.tag_v2.get(tag) if isinstance(image, TiffImageFile) else None)


def first_number(value: Any) -> float | None:
    """The number, or the first one of the tuple, that a TIFF tag has; None without any."""
    value = value[0] if isinstance(value, tuple) and value else value
    return float(value) if isinstance(value, int | float) else None


def _values(image: Image.Image) -> NDArray[np.float64]:
    values = np.asarray(image)
    if _tag(image, _BITS) == 32 and _tag(image, _FORMAT) in (None, 1) and image.mode == "I":
        values = values.astype(np.int64) & 0xFFFFFFFF  # PIL reads unsigned integers as signed ones.
    return values.astype(np.float64)


def _range(image: Image.Image) -> Range:
    """The range that the file's tags, or its format, declare."""
    low, high = _tag(image, _LEAST), _tag(image, _MOST)
    if low is not None and high is not None and low < high:
        return Range(low, high)
    bits = _tag(image, _BITS)
    if image.mode.startswith("I;16"):
        return Range(0, 2 ** int(bits if bits and bits <= WIDE else WIDE) - 1)
    if image.mode == "I" and image.format in SCALED:
        return Range(0, 2**WIDE - 1)
    kind = "floating-point values" if image.mode == "F" else "integers of more than 16 bits, or with a sign"
    raise undeclared(kind)


def undeclared(kind: str) -> DataError:
    """The error for values of a kind whose range nothing declares."""
    return DataError(f"the file holds {kind} and does not say which are black and white; {HINT}")
