"""Encoded pictures become upright RGB: whatever PIL can read, without silent damage."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import IO, NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from castssl.datasets.depth import Range, eight_bits, is_deep, refuse_range
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

_ORIENTATION = 0x0112
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_ON_SIDE = (5, 6, 7, 8)


class Decoded(NamedTuple):
    """A picture as it is used."""

    image: Image.Image
    """RGB, upright."""
    orientation: int
    """By EXIF, 1 to 8: how the stored picture was turned."""
    remark: str
    """What was lost, "" if nothing was: values outside the declared range."""


def decode(file: IO[bytes], declared: Range | None = None) -> Image.Image:
    """The picture in ``file`` as upright RGB, at its own size: :func:`header`, then :func:`read`."""
    return read(header(file, declared), declared=declared).image


def header(file: IO[bytes], declared: Range | None = None) -> Image.Image:
    """The picture in ``file``, opened and of known size; its pixels are read as long as the file is open.

    Raises:
        DataError: if the file is empty, a pointer of Git LFS, of a format that needs another package, or
            such that the declared range cannot be applied to it.
        Exception: of almost any kind, if it is broken, of an unknown format, or of more than
            ``2 * PIL.Image.MAX_IMAGE_PIXELS`` pixels (a bomb).
    """
    silence_pil()
    try:
        opened = Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        begin = file.read(64)
        if not (begin[4:8] == b"ftyp" and b"avif" not in begin and find_spec("pillow_heif")):
            _explain(begin)
            raise
        import_module("pillow_heif").register_heif_opener()
        file.seek(0)
        opened = Image.open(file)
    refuse_range(opened, declared)
    return opened


def _explain(begin: bytes) -> None:
    """Raise an error that names the cause, if the first bytes of a file show it."""
    if not begin:
        raise DataError("the file is empty") from None
    if begin.startswith(LFS):
        raise DataError(
            "a pointer of Git LFS in place of the image: run git lfs pull where it lies"
        ) from None
    if begin[4:8] == b"ftyp":
        package = "pillow>=11.3" if b"avif" in begin else "pillow-heif"
        raise DataError(f"of a format that needs another package: {install(package)}") from None


def orientation(image: Image.Image) -> int:
    """How a picture is stored, by EXIF: 1 (upright) to 8; 1 if EXIF is missing or damaged.

    Raises:
        Exception: of almost any kind, if the picture is broken: some formats hold EXIF behind the pixels.
    """
    if not isinstance(image, (JpegImageFile, TiffImageFile)):
        image.load()  # Else the parser would load it, and its error could not be told from one in EXIF.
    try:
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else image.getexif()
        found = tags.get(_ORIENTATION, 1)
    except Exception:  # the parser raises almost anything, and the pixels are whole
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def turned(image: Image.Image, by: int) -> Image.Image:
    """A stored picture turned upright, given its EXIF orientation."""
    if by not in _TURNS:
        return image
    upright = image.transpose(_TURNS[by])
    upright.info = {}  # The orientation is no longer true.
    return upright


def upright_size(opened: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture once it is upright.

    Raises:
        Exception: of almost any kind, if it is broken: PIL turns TIFF pictures when it reads their pixels.
    """
    width, height = opened.size
    if isinstance(opened, TiffImageFile):
        opened.load()
        return opened.size
    return (height, width) if orientation(opened) in _ON_SIDE else (width, height)


def read(opened: Image.Image, least: tuple[int, int] | None = None, declared: Range | None = None) -> Decoded:
    """An opened picture as upright RGB; its color profile is left alone, as in torchvision.

    An animation gives its first picture.

    Args:
        opened: what :func:`header` gave; it is used up.
        least: read a JPEG at 1/2, 1/4 or 1/8 as long as it keeps this width and height of the upright
            picture.
        declared: the values of black and white in pictures of more than 8 bits, see
            :mod:`castssl.datasets.depth`.

    Raises:
        DataError: if the picture has more than 8 bits and nothing declares its range.
        Exception: of almost any kind, if it is broken.
    """
    by = orientation(opened)
    if least is not None:
        opened.draft(None, least[::-1] if by in _ON_SIDE else least)
    opened.load()
    rgb, remark = _rgb(opened, declared)
    return Decoded(rgb if isinstance(opened, TiffImageFile) else turned(rgb, by), by, remark)


def pixels(opened: Image.Image, least: tuple[int, int] | None = None) -> Image.Image:
    """The image of :func:`read`."""
    return read(opened, least).image


def to_rgb(image: Image.Image, declared: Range | None = None) -> Image.Image:
    """As upright RGB: more than 8 bits are scaled, transparency is laid on white.

    Raises:
        DataError: if the picture has more than 8 bits and nothing declares its range.
    """
    return read(image, declared=declared).image


def _rgb(image: Image.Image, declared: Range | None) -> tuple[Image.Image, str]:
    if is_deep(image):
        grey, remark = eight_bits(image, declared)
        return grey.convert("RGB"), remark
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB"), ""
    return image if image.mode == "RGB" else image.convert("RGB"), ""


def fitted(mask: Image.Image, size: tuple[int, int], by: int) -> Image.Image:
    """A mask as it lies on the upright picture.

    Args:
        mask: of the upright picture's size, or of the stored picture's.
        size: width and height of the upright picture.
        by: the picture's EXIF orientation.

    Raises:
        DataError: if the mask has another size.
    """
    if mask.size == size:
        return mask
    if by in _ON_SIDE and mask.size == size[::-1]:
        return turned(mask, by)
    raise DataError(
        f"the mask has {mask.width} x {mask.height} pixels, expected {size[0]} x {size[1]} as its image"
    )


def silence_pil() -> None:
    """Let PIL not warn of every odd tag: what matters is whether the picture can be read.

    A context around each picture would make Python forget which other warnings it has shown already, and a
    filter set once might be gone: ``pytest`` and ``warnings.catch_warnings`` put the old ones back.
    """
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _QUIET = warnings.filters[0]
