"""JPEG files read by OpenCV: the pixels that PIL reads, as an array, in less time.

The wheels of both use libjpeg-turbo.  PIL stores four bytes a pixel, so an array of its image takes one more
copy.  OpenCV lets the library write warnings on damaged files to standard error.
"""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION if "IMREAD_COLOR_RGB" in dir(cv2) else None
"""OpenCV's flags; None before version 4.11."""
_END = b"\xff\xd9"
_INSIDE = re.compile(rb"\xff[^\x00\xd0-\xd7](?!\Z)")
"""A marker behind the first scan's begin other than a restart or the last one: of a progressive file, or of
damage, which PIL refuses in cases in which OpenCV returns an image."""


class ArrayImage(Image.Image):
    """An RGB image of PIL over an array, which is copied to PIL's memory when a method of PIL needs it.

    The attribute ``im``, PIL's memory, exists after :meth:`load` only, as of an image that PIL has opened.

    Args:
        pixels: uint8 (H, W, 3); read-only from now on, as PIL's arrays are.
        info: PIL's metadata of the file.
    """

    _pixels: NDArray[np.uint8] | None = None  # Copies and unpickled images have PIL's memory only.
    _loaded = True

    def __init__(self, pixels: NDArray[np.uint8], info: dict[str | tuple[int, int], Any]) -> None:
        super().__init__()
        pixels.flags.writeable = False
        # Kept after load(), too: numpy's arrays of this image point into it.
        self._pixels, self._loaded = pixels, False
        self._mode, self._size, self.info = "RGB", (pixels.shape[1], pixels.shape[0]), info

    @property
    def __array_interface__(self) -> dict[str, Any]:
        pixels = self._pixels
        return dict(
            super().__array_interface__ if pixels is None or self._loaded else pixels.__array_interface__
        )

    def load(self) -> Any:
        """As PIL's, whose methods call this before they read or change pixels."""
        if self._pixels is not None and not self._loaded:
            self.im, self._loaded = Image.fromarray(self._pixels).im, True
        return super().load()


def read_jpeg(opened: Image.Image) -> ArrayImage | None:
    """The image of an opened JPEG file, at full size and as it is stored.

    None for others, which PIL reads or refuses: files of other formats, of several images, progressive files,
    those of four channels, truncated ones, and images that were loaded before.  None for all before OpenCV
    4.11, too.

    Args:
        opened: from ``PIL.Image.open``.  Its file is at another position afterwards.
    """
    if type(opened) is not JpegImageFile or opened.fp is None:
        return None
    if _AS_STORED is None or opened.mode not in ("RGB", "L"):
        return None
    scan = opened.fp.tell()  # PIL has read the header up to here.
    opened.fp.seek(0)
    encoded = opened.fp.read()
    if not encoded.endswith(_END) or _INSIDE.search(encoded, scan):
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), _AS_STORED)
    except cv2.error:
        return None
    return None if pixels is None else ArrayImage(np.asarray(pixels, np.uint8), opened.info)
