"""Stored images, and masks that lie on them, turned upright by their EXIF orientation."""

from __future__ import annotations

from PIL import Image
from PIL.Image import Transpose
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from castssl.errors import DataError

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
ON_SIDE = (5, 6, 7, 8)


def orientation(image: Image.Image) -> int:
    """The orientation of a stored image by EXIF: 1 (upright) to 8; 1 if EXIF is missing or damaged.

    Raises:
        Exception: of almost any kind, if the image is broken: some formats hold EXIF behind the pixels.
    """
    if not isinstance(image, (JpegImageFile, TiffImageFile)):
        image.load()  # Else the parser would load it, and its error would look like one in EXIF.
    try:
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else image.getexif()
        tag = tags.get(_ORIENTATION, 1)
    except Exception:  # The parser raises almost anything, and the pixels are intact.
        return 1
    return tag if isinstance(tag, int) and tag in _TURNS else 1


def turned(image: Image.Image, by: int) -> Image.Image:
    """A stored image turned upright, given its EXIF orientation."""
    if by not in _TURNS:
        return image
    upright = image.transpose(_TURNS[by])
    upright.info = {}  # The orientation is no longer true.
    return upright


def upright_size(opened: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image once it is upright.

    Raises:
        Exception: of almost any kind, if it is broken: PIL turns TIFF images when it reads their pixels.
    """
    width, height = opened.size
    if isinstance(opened, TiffImageFile):
        opened.load()
        return opened.size
    return (height, width) if orientation(opened) in ON_SIDE else (width, height)


def fitted(mask: Image.Image, size: tuple[int, int], by: int) -> Image.Image:
    """A mask as it lies on the upright image.

    Args:
        mask: of the upright image's size, or of the stored image's.
        size: width and height of the upright image.
        by: the image's EXIF orientation.

    Raises:
        DataError: if the mask has another size.
    """
    if mask.size == size:
        return mask
    if by in ON_SIDE and mask.size == size[::-1]:
        return turned(mask, by)
    raise DataError(
        f"the mask has {mask.width} x {mask.height} pixels, expected {size[0]} x {size[1]} as its image"
    )
