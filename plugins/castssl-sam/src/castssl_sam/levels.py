"""Masks that may overlap, as two label maps: parts and objects.

The rule is that of CAST's comparison with SAM (https://arxiv.org/abs/2210.00314, section 4.1 and appendix
E.3; released in ``eval_ovseg_sam.ipynb``).  Large masks tend to be objects and small ones parts, so the
masks are taken from the largest to the smallest:

* objects: a mask gets those of its pixels that no larger mask has;
* parts: a mask overrides all larger ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from castssl.segmenter import consecutive


def parts_and_objects(masks: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Label maps of masks, first of parts, then of objects.

    Pixels in no mask are one segment.  The result does not depend on the order of the masks: of two of equal
    size, the one that has the first pixel in reading order that is not in both counts as the larger one.  A
    mask that keeps no pixel, as an empty one, is not a segment; without masks each level has one segment.
    A part may lie in several objects, so the levels are not nested.

    Args:
        masks: bool (N, H, W), N of 0 or more.

    Returns:
        int32 (2, H, W), parts and objects, each numbered from 0 without gaps.

    Raises:
        ValueError: unless the masks are as above.
    """
    if masks.dtype != np.bool_ or masks.ndim != 3:
        raise ValueError(
            f"expected masks as bool of shape (N, H, W), got {masks.dtype} of shape {masks.shape}"
        )
    largest_first = sorted(masks, key=lambda mask: (mask.sum(), np.packbits(mask).tobytes()), reverse=True)
    parts, objects = np.zeros((2, *masks.shape[1:]), np.int32)
    for number, mask in enumerate(largest_first, start=1):
        objects[mask & (objects == 0)] = number
        parts[mask] = number
    return consecutive(np.stack([parts, objects]))
