"""Images of any number of channels: of TIFF files by tifffile, of ``.npy`` files, and of others by PIL.

PIL has no image of five channels.  Here such an image is a :class:`MultiChannel`, which PIL crops, resizes
and flips channel by channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from castssl.datasets.depth import Range, first_number, range_of_bits, to_bytes, undeclared
from castssl.datasets.orientation import turned
from castssl.errors import DataError
from castssl.installer import install

BOMB = 8
"""A TIFF file of more values than so many times PIL's ``MAX_IMAGE_PIXELS`` is refused: PIL itself refuses
more than twice as many pixels, of up to four channels."""
RGB = (1, 3)
"""Numbers of channels of models that read RGB, or gray that is computed from RGB: PIL's images serve them."""
_NUMPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION, _LEAST, _MOST, _PHOTOMETRIC = 274, 280, 281, 262


class MultiChannel(Image.Image):
    """An image of C channels, with those methods of PIL's images that views use.

    ``numpy.asarray(image)`` is its (H, W, C) pixels.  Conversion to other modes does not exist;
    :func:`to_rgb_image` shows three channels.

    Args:
        pixels: (H, W, C).
        stored: the values of black and white; None for uint8, or where the file does not declare them.
        inverted: whether the lowest value is white.
    """

    def __init__(self, pixels: NDArray[Any], stored: Range | None = None, inverted: bool = False) -> None:
        super().__init__()
        self.pixels, self.stored, self.inverted = pixels, stored, inverted
        self._mode, self._size = f"{pixels.shape[2]} channels", (pixels.shape[1], pixels.shape[0])

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return int(self.pixels.shape[2])

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return dict(self.pixels.__array_interface__)

    def load(self) -> None:
        """Nothing: the pixels are in memory."""

    def crop(self, *args: Any, **options: Any) -> MultiChannel:
        """As PIL's."""
        return self._each(lambda band: band.crop(*args, **options))

    def resize(self, *args: Any, **options: Any) -> MultiChannel:
        """As PIL's."""
        return self._each(lambda band: band.resize(*args, **options))

    def transpose(self, method: Image.Transpose) -> MultiChannel:
        """As PIL's."""
        return self._each(lambda band: band.transpose(method))

    def map_gray(self, change: Callable[[Image.Image], Image.Image]) -> MultiChannel:
        """Each channel, as a gray image in RGB, after a change of RGB images that leaves gray images gray."""
        return self._each(lambda band: change(band.convert("RGB")).getchannel(0))

    def _each(self, change: Callable[[Image.Image], Image.Image]) -> MultiChannel:
        bands = [Image.fromarray(np.ascontiguousarray(band)) for band in self.pixels.transpose(2, 0, 1)]
        return MultiChannel(np.stack([np.asarray(change(band)) for band in bands], -1), self.stored)


def open_image(file: IO[bytes], channels: int = 3) -> Image.Image:
    """The image in a file; one of other than RGB is a :class:`MultiChannel` of the file's own values.

    Args:
        file: at its beginning.
        channels: of the model; 1 and 3 read what PIL reads, and arrays of one or three channels.

    Raises:
        DataError: if the file has another number of channels, or tifffile is missing.
        UnidentifiedImageError: if it is not an image.
        Exception: of almost any kind, if it is broken.
    """
    image: MultiChannel | None
    if channels not in RGB:
        image = _read(file) or MultiChannel(_with_channels(np.asarray(Image.open(file))))
    else:
        try:
            return Image.open(file)
        except UnidentifiedImageError:
            image = _read_or_none(file)
            if image is None:
                raise
    return check_channels(image, channels)


def check_channels(image: MultiChannel, channels: int) -> MultiChannel:
    """The image itself.

    Raises:
        DataError: if it has another number of channels than a model of so many reads.
    """
    got = image.channels
    if got == channels or (got in RGB and channels in RGB):
        return image
    if channels in RGB:
        raise DataError(
            f"{got} channels, expected 1 (gray) or 3 (RGB): models that were trained with --channels {got}"
            " read it, but castssl look, compare and report read RGB only; or convert it"
        )
    raise DataError(
        f"{got} channels, expected {channels} as the model reads: convert it, or train another model with"
        f" --channels {got}"
    )


def reduced(image: MultiChannel, declared: Range | None) -> tuple[Image.Image, str]:
    """The image with 8 bits a channel, and a remark on lost values: "" if there are none.

    One or three channels become an RGB image of PIL.

    Args:
        image: from :func:`open_image`.
        declared: the user's range of all channels, which takes precedence over the file's.

    Raises:
        DataError: if nothing declares the range.
    """
    pixels, remark = image.pixels, ""
    if pixels.dtype != np.uint8:
        values = pixels.astype(np.float64)
        pixels, remark = to_bytes(values, declared or _range(image), inverted=image.inverted)
    elif image.inverted:
        pixels = 255 - pixels
    pixels = np.ascontiguousarray(pixels)
    if image.channels in RGB:
        return Image.fromarray(pixels[..., 0] if image.channels == 1 else pixels).convert("RGB"), remark
    return MultiChannel(pixels), remark


def to_rgb_image(image: Image.Image, channels: Sequence[int]) -> Image.Image:
    """An image to look at: three channels of a :class:`MultiChannel`; any other image itself."""
    if not isinstance(image, MultiChannel):
        return image
    picked = [min(channel, image.channels - 1) for channel in channels]
    return Image.fromarray(np.ascontiguousarray(image.pixels[..., picked]))


def _range(image: MultiChannel) -> Range:
    if image.stored is not None:
        return image.stored
    if image.pixels.dtype == np.uint16:
        return range_of_bits("16")
    raise undeclared("values of the type " + image.pixels.dtype.name)


def _with_channels(array: NDArray[Any]) -> NDArray[Any]:
    """(H, W, C) of that or (H, W)."""
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "uif":
        raise DataError(f"an array {array.dtype} of shape {array.shape}, expected numbers of shape (H, W, C)")
    return array


def _read(file: IO[bytes]) -> MultiChannel | None:
    """The array in a TIFF or ``.npy`` file; None for any other file, which is at its beginning again."""
    file.seek(0)
    begin = file.read(8)
    file.seek(0)
    if begin.startswith(_NUMPY):
        return MultiChannel(_with_channels(np.load(file, allow_pickle=False)))
    return _read_tiff(file) if begin.startswith(_TIFF) else None


def _read_or_none(file: IO[bytes]) -> MultiChannel | None:
    """As :func:`_read`, for a file that PIL does not know: a damaged one is none, either."""
    try:
        return _read(file)
    except DataError:
        raise
    except Exception:  # PIL's own error is the better one.
        return None


def _read_tiff(file: IO[bytes]) -> MultiChannel:
    """The first series of a TIFF file: its samples, or its pages, are the channels."""
    try:
        from tifffile import TiffFile
    except ImportError as error:
        raise DataError(f"a TIFF file that PIL does not read: {install('tifffile')}") from error
    with TiffFile(file) as tiff:
        series, page = tiff.series[0], tiff.series[0].keyframe
        if Image.MAX_IMAGE_PIXELS and series.size > BOMB * Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{series.size:,} values, which may be a decompression bomb")
        axes, array = series.axes, series.asarray()
        tags = {code: first_number(page.tags.valueof(code)) for code in (_ORIENTATION, _LEAST, _MOST)}
        bits, inverted = page.bitspersample, page.photometric == 0
    extra = [axis for axis in axes if axis not in "YX"]
    if len(extra) > 1:
        raise DataError(f"a TIFF file with axes {axes}, expected one axis of channels beside Y and X")
    order = [axes.index("Y"), axes.index("X"), *map(axes.index, extra)]
    low, high = tags[_LEAST], tags[_MOST]
    stored = range_of_bits(str(bits)) if array.dtype == np.uint16 else None
    if low is not None and high is not None and low < high:
        stored = Range(low, high)
    image = MultiChannel(_with_channels(array.transpose(order)), stored, inverted)
    upright = turned(image, int(tags[_ORIENTATION] or 1))
    assert isinstance(upright, MultiChannel)
    upright.inverted = inverted
    return upright
