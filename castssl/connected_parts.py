"""The connected parts of the labels of a map."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class Parts(NamedTuple):
    """Regions of equal labels, in which each pixel is reached by steps to the right, left, up and down."""

    numbers: NDArray[np.int64]
    """(H, W), the part of each pixel, from 1."""
    minor: NDArray[np.uint8]
    """By number: 0 for the largest part of a label, 1 for its others; the first value belongs to no part."""


def connected_parts(labels: NDArray[np.int32]) -> Parts:
    """The 4-connected parts of each label.

    Args:
        labels: int32 (H, W), 0 or more.
    """
    height, width = labels.shape
    # OpenCV finds parts of a binary image: pixels, and between two of them a gap that equal labels close.
    joined = np.zeros((2 * height - 1, 2 * width - 1), np.bool_)
    joined[::2, ::2] = True
    np.equal(labels[:, 1:], labels[:, :-1], out=joined[::2, 1::2])
    np.equal(labels[1:], labels[:-1], out=joined[1::2, ::2])
    # Corners join nothing else, as gaps that touch at one have a pixel in common, and take half of the time.
    count, numbered = cv2.connectedComponents(joined.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    numbers = numbered[::2, ::2].astype(np.int64)
    flat = numbers.ravel()
    owners = np.zeros(count, np.int32)
    owners[flat] = labels.ravel()
    # From small to large, so that a label's largest part is written last.
    order = np.argsort(np.bincount(flat, minlength=count), kind="stable")
    order = order[order > 0]
    largest = np.zeros(int(owners.max()) + 1, np.int64)
    largest[owners[order]] = order
    minor = np.ones(count, np.uint8)
    minor[largest] = 0
    return Parts(numbers, minor)
