"""Label maps of an image, fine to coarse: the contract of segmenters, and what their authors need.

A segmenter is any method that segments an image at several levels, learned or not.  This module does not
import torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from castssl.errors import ContractError


class Segmenter:
    """Segment an image at several levels, fine to coarse.

    A factory of the group ``castssl.segmenters`` is called as ``factory(source, **options)``: in
    ``NAME:SOURCE,key=value`` the source is all that comes before the first option, such as a path of weights;
    "" if nothing does.

    The result depends on the image and its name alone.  A call keeps no state, and neither draws from nor
    seeds a global random generator.
    """

    nested: bool = False
    """True if each segment lies within one segment of the next level, in every image."""
    untrained: int = 0
    """How many of the coarsest levels come from a pooling that no training has changed."""

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> NDArray[np.int32]:
        """Segment one image.

        Args:
            image: uint8 (H, W, 3), RGB; it is not written to.
            name: the image's path below its data set, for a segmenter that finds stored results by it.

        Returns:
            int32 (L, H, W), levels fine to coarse; L is 1 or more and the same for all images.  Each pixel is
            in one segment of each level, and the K segments of a level have the ids 0 to K - 1 in any order.
            Over the images of a data set, a level has on average no more segments than the one before it.

        Raises:
            ValueError: unless ``image`` is uint8 (H, W, 3).
            DataError: if this image has no result, such as a missing file.
        """
        raise NotImplementedError(f"{type(self).__name__}.__call__")


def check_image(image: NDArray[Any]) -> None:
    """Refuse anything but uint8 (H, W, 3) with H, W >= 1.

    Raises:
        ValueError: naming the dtype and shape expected and got.
    """
    shape = tuple(image.shape)
    if image.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(
            f"a segmenter expects an RGB image as uint8 of shape (H, W, 3), got {image.dtype} of shape"
            f" {shape}; pass one image at a time, with values 0 to 255"
        )


def label_maps(
    segmenter: Segmenter, image: NDArray[np.uint8], name: str = "", levels: int | None = None
) -> NDArray[np.int32]:
    """The label maps of an image, int32 (L, H, W), after a check that they are what the contract requires.

    Args:
        segmenter: any.
        image: see :meth:`Segmenter.__call__`.
        name: likewise.
        levels: L of the images before; None for the first one.

    Raises:
        ContractError: naming the segmenter, if it returned anything else.
        DataError: if this image has no result.
    """
    maps: object = segmenter(image, name)
    if isinstance(maps, np.ndarray):
        fits = maps.ndim == 3 and maps.shape[1:] == image.shape[:2] and len(maps) == (levels or len(maps)) > 0
        if fits and maps.dtype == np.int32 and maps.min() >= 0:
            return maps
        got = f"{maps.dtype} {maps.shape}"
        got += f" with the segment {maps.min()}" if fits and maps.dtype == np.int32 else ""
    else:
        got = f"a {type(maps).__name__}"
    expected = f"({'L' if levels is None else levels}, {image.shape[0]}, {image.shape[1]})"
    raise ContractError(
        f"{type(segmenter).__name__} returned {got} for the image {name}, expected int32 {expected} with"
        " segments 0, 1, ..., and as many levels for all images; check the plugin with castssl.testing"
    )


def consecutive(maps: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Number the segments of each level from 0 without gaps, in the order of their ids.

    Args:
        maps: integer (L, H, W); every value, also a negative one, is a segment.

    Returns:
        int32 (L, H, W).
    """
    levels = [np.unique(level, return_inverse=True)[1].reshape(level.shape) for level in maps]
    return np.stack(levels).astype(np.int32)
