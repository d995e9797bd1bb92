"""One connected region for each label of a map."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from castssl.connected_parts import connected_parts

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def connected(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Each label keeps the largest of its connected parts; the others go to the labels around them.

    From the outside, each pixel of such a part gets the highest label of its four neighbors.

    Args:
        labels: int32 (H, W), 0 to 2^24.

    Returns:
        int32 (H, W), with all labels that there were.
    """
    parts = connected_parts(labels)
    if not parts.minor[1:].any():
        return labels
    empty = parts.minor.take(parts.numbers)
    filled = labels.astype(np.float32)  # OpenCV's dilation takes no int32.
    cv2.copyTo(np.full_like(filled, -1), empty, filled)
    while cv2.countNonZero(empty):
        cv2.copyTo(cv2.dilate(filled, _CROSS), empty, filled)
        empty = (filled < 0).view(np.uint8)
    return filled.astype(np.int32)
