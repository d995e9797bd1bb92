"""Files, PIL images, arrays, tensors, and lists and batches of these, as a model reads them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from castssl.datasets.decode import header, read
from castssl.datasets.depth import Range
from castssl.datasets.multichannel import RGB, MultiChannel, check_channels
from castssl.datasets.unreadable import why
from castssl.errors import DataError, printable
from castssl.system_errors import explain

Photo: TypeAlias = Image.Image | NDArray[Any] | Tensor | str | Path
Photos: TypeAlias = Photo | Sequence[Photo]
EXPECTED = (
    "expected a file's path, a PIL image, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), a tensor"
    " (3, H, W) or (1, H, W), or a list or a batch of these"
)
_log = logging.getLogger(__name__)


def separate(images: Photos) -> tuple[list[Photo], bool]:
    """The single images, and whether they are a list or a batch: an array or a tensor of four dimensions."""
    if isinstance(images, list | tuple):
        return list(images), True
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images), True
    return [images], False  # type: ignore[list-item] # read_photo refuses what is not an image


def read_photo(image: Photo, declared: tuple[float, float] | None = None, channels: int = 3) -> Image.Image:
    """The image, upright, in RGB or of other channels.

    Args:
        image: a file's path; a PIL image; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or a tensor
            (3, H, W) or (1, H, W) on any device.  Arrays and tensors hold uint8, or floats from 0 to 1, or
            with ``declared`` any numbers.  EXIF turns files and PIL images upright.
        declared: the values of black and white where the image has more than 8 bits a channel.
        channels: of the model.  1 and 3 read RGB; another C reads files of C channels, arrays (H, W, C) and
            tensors (C, H, W).

    Raises:
        DataError: naming what was expected, if it is not an image or cannot be read.
        OSError: if the system is at fault, as at its limit of open files.
    """
    values = None if declared is None else Range(*declared)
    if isinstance(image, Image.Image) and channels not in RGB:
        image = np.asarray(image)
    if isinstance(image, Image.Image):
        image.load()  # PIL closes its file, and a draft of the caller stays.
        return read(image, declared=values).image
    if isinstance(image, np.ndarray | Tensor) and channels not in RGB:
        return check_channels(MultiChannel(_bytes(image, values, (channels,))), channels)
    if isinstance(image, np.ndarray | Tensor):
        accepted = (1, 3) if isinstance(image, Tensor) else (1, 3, 4)
        return read(Image.fromarray(_bytes(image, values, accepted))).image
    if not isinstance(image, str | Path):
        raise DataError(f"{EXPECTED}; got a {type(image).__name__}")
    try:
        with Path(image).expanduser().open("rb") as file:
            decoded = read(header(file, values, channels), declared=values)
    except Exception as error:  # decoders raise almost anything on a broken file
        if explain(error):
            raise  # The fault is not the image's.
        raise DataError(
            f"cannot read the image {image}: {why(error)}; expected a file that PIL reads"
        ) from error
    if decoded.remark:
        _log.warning("%s", printable(f"the image {image}: {decoded.remark}"))
    return decoded.image


def _bytes(
    image: NDArray[Any] | Tensor, values: Range | None, channels: tuple[int, ...]
) -> NDArray[np.uint8]:
    """uint8 (H, W), or (H, W, C) with C in ``channels``, of an array or a tensor."""
    got = f"got {image.dtype} of shape {tuple(image.shape)}"
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        array = (image.movedim(0, -1) if image.ndim == 3 else image).numpy()
    else:
        array = image
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in channels or 0 in array.shape or array.dtype.kind not in "uif":
        expected = (
            EXPECTED if 3 in channels else f"expected an image of {channels[0]} channels, as --channels"
        )
        raise DataError(f"{expected}, of uint8 or of floats from 0 to 1; {got}")
    if array.dtype != np.uint8 or values is not None:
        low, high = values or (0.0, 1.0)
        if values is None and not (array.dtype.kind == "f" and array.min() >= low and array.max() <= high):
            raise DataError(
                f"expected uint8, or floats from 0 to 1, {got} with values from {array.min()} to"
                f" {array.max()}; give the values of black and white, such as value_range=(0, 4095), and of a"
                " normalized image castssl.data.normalize.denormalize(image)"
            )
        scaled = (array.astype(np.float64) - low) / (high - low)
        array = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array)
