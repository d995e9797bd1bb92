"""The colors that SEEDS receives: those of the image, or as the published code gives them to it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["moco", "deit", "segmenter"]


def table_of(mode: Mode) -> NDArray[np.uint8] | None:
    """Each uint8 value of each channel as SEEDS receives it: (1, 256, 3), or None."""
    values = np.arange(256, dtype=np.float32)[None, :, None]
    if mode == "deit":
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        normalized = (values / np.float32(255) - mean.astype(np.float32)) / std.astype(np.float32)
        return np.asarray(((normalized * std + mean) * 255).astype(np.uint8))
    if mode == "segmenter":
        mean, std = (
            np.array(numbers, np.float32) for numbers in ([123.68, 116.28, 103.53], [58.40, 57.12, 57.38])
        )
        # mmcv widens the rounded std: the factor is a double, the difference and the way back are single
        normalized = ((values - mean) * (1 / std.astype(np.float64))).astype(np.float32)
        exact = (normalized * std + mean).astype(np.uint8)
        return np.asarray(0 - exact, np.uint8)
    return None
