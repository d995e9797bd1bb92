"""Encoded pictures become RGB: whatever PIL can read, without silent damage."""

from __future__ import annotations

import os
import warnings
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from castssl.errors import DataError


def decode(file: IO[bytes]) -> Image.Image:
    """The picture in ``file`` as RGB, at its own size: :func:`header`, then :func:`pixels`."""
    return pixels(header(file), None)


def header(file: IO[bytes]) -> Image.Image:
    """The picture in ``file``, opened and of known size; its pixels are read as long as the file is open.

    Raises:
        DataError: if the file is empty.
        Exception: of almost any kind, if it is broken, of an unknown format, or of more than
            ``2 * PIL.Image.MAX_IMAGE_PIXELS`` pixels (a bomb).
    """
    hush()
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if file.seek(0, os.SEEK_END) == 0:
            raise DataError("the file is empty") from None
        raise


def pixels(opened: Image.Image, least: tuple[int, int] | None = None) -> Image.Image:
    """An opened picture as RGB; EXIF orientation and colour profiles are left alone, as in torchvision.

    An animation gives its first picture.

    Args:
        opened: what :func:`header` gave; it is used up.
        least: read a JPEG at 1/2, 1/4 or 1/8 as long as it keeps this width and height.

    Raises:
        Exception: of almost any kind, if it is broken.
    """
    if least is not None:
        opened.draft(None, least)
    opened.load()
    return to_rgb(opened)


def to_rgb(image: Image.Image) -> Image.Image:
    """As RGB: 16 bits scaled instead of clipped, transparency laid on white instead of dropped."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Scaled by the number of bits that the largest value takes, if that is more than 8."""
    pixels = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
    top = pixels.max(initial=0)
    if image.mode == "F":
        pixels = pixels * 255 if top <= 1 else pixels
    elif top > 255:
        pixels = pixels // (1 << (8 if top < 1 << 16 else 24))
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)


def hush() -> None:
    """Let PIL not warn of every odd tag: what matters is whether the picture can be read.

    A context around each picture would make Python forget which other warnings it has shown already, and a
    filter set once might be gone: ``pytest`` and ``warnings.catch_warnings`` put the old ones back.
    """
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _QUIET = warnings.filters[0]
