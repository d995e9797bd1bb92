"""Encoded images become upright RGB: all formats that PIL reads, without silent damage."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import IO, NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from castssl.datasets.depth import Range, eight_bits, is_deep, refuse_range
from castssl.datasets.jpeg import read_jpeg
from castssl.datasets.multichannel import MultiChannel, open_image, reduced
from castssl.datasets.orientation import ON_SIDE, orientation, turned
from castssl.datasets.pil_warnings import silence_pil
from castssl.errors import DataError
from castssl.files import LFS
from castssl.installer import install

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"),
    *(".jp2", ".heic", ".heif")[: 3 if find_spec("pillow_heif") else 1],
)
"""File names that count as images, in lower case."""
PACKAGES = {} if find_spec("pillow_heif") else {".heic": "pillow-heif", ".heif": "pillow-heif"}
"""The package to install for images of other file names, which are left out without it."""


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        image: RGB, upright; or of other channels, see :mod:`castssl.datasets.multichannel`.
        orientation: of the stored image by EXIF, 1 to 8.
        remark: on values outside the declared range, which are lost; "" if there are none.
    """

    image: Image.Image
    orientation: int
    remark: str


def decode(file: IO[bytes], declared: Range | None = None, channels: int = 3) -> Image.Image:
    """The image in ``file``, upright, at its own size: :func:`header`, then :func:`read`."""
    return read(header(file, declared, channels), declared=declared).image


def header(file: IO[bytes], declared: Range | None = None, channels: int = 3) -> Image.Image:
    """The image in ``file``, opened and of known size; its pixels are read as long as the file is open.

    Raises:
        DataError: if the file is empty, a pointer of Git LFS, of a format that needs another package, or
            such that the declared range cannot be applied to it, or if it has not the channels that a
            model of so many reads, see :mod:`castssl.datasets.multichannel`.
        Exception: of almost any kind, if it is broken, of an unknown format, or of more than
            ``2 * PIL.Image.MAX_IMAGE_PIXELS`` pixels (a bomb).
    """
    silence_pil()
    try:
        opened = open_image(file, channels)
    except UnidentifiedImageError:
        file.seek(0)
        begin = file.read(64)
        package = _package(begin)
        if package != "pillow-heif" or not find_spec("pillow_heif"):
            if not begin:
                raise DataError("the file is empty") from None
            if begin.startswith(LFS):
                raise DataError(
                    "a pointer of Git LFS in place of the image: run git lfs pull in its folder"
                ) from None
            if package:
                raise DataError(f"of a format that needs another package: {install(package)}") from None
            raise
        import_module("pillow_heif").register_heif_opener()
        file.seek(0)
        opened = Image.open(file)
    refuse_range(opened, declared)
    return opened


def _package(begin: bytes) -> str:
    """The package that reads a file which PIL alone does not read, by its first bytes; "" if unknown."""
    if begin[4:8] != b"ftyp":
        return ""
    return "pillow>=11.3" if b"avif" in begin else "pillow-heif"


def read(opened: Image.Image, least: tuple[int, int] | None = None, declared: Range | None = None) -> Decoded:
    """An opened image as upright RGB; its color profile is ignored, as in torchvision.

    An animation gives its first image.

    Args:
        opened: the result of :func:`header`; it is consumed.
        least: read a JPEG at 1/2, 1/4 or 1/8 as long as it keeps this width and height of the upright
            image.
        declared: the values of black and white in images of more than 8 bits, see
            :mod:`castssl.datasets.depth`.

    Raises:
        DataError: if the image has more than 8 bits and nothing declares its range.
        Exception: of almost any kind, if it is broken.
    """
    by, full = orientation(opened), opened.size
    if least is not None:
        opened.draft(None, least[::-1] if by in ON_SIDE else least)
    image: Image.Image | None = read_jpeg(opened) if opened.size == full else None
    if image is None:
        opened.load()
    rgb, remark = to_rgb(image or opened, declared)
    return Decoded(rgb if isinstance(opened, TiffImageFile) else turned(rgb, by), by, remark)


def to_rgb(image: Image.Image, declared: Range | None = None) -> tuple[Image.Image, str]:
    """A loaded image as RGB, or of other channels with 8 bits each; and the remark of :class:`Decoded`.

    Raises:
        DataError: if the image has more than 8 bits and nothing declares its range.
    """
    if isinstance(image, MultiChannel):
        return reduced(image, declared)
    if is_deep(image):
        gray, remark = eight_bits(image, declared)
        return gray.convert("RGB"), remark
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB"), ""
    return image if image.mode == "RGB" else image.convert("RGB"), ""
