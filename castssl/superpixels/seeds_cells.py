"""The grid of cells that SEEDS begins with: OpenCV's, or a plain one where an image is too small for it."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

FEWEST = 10
"""OpenCV silently raises a smaller request to this."""


def opencv_cells(height: int, width: int, requested: int) -> tuple[int, int] | None:
    """Rows and columns that OpenCV makes of a request, or None where it would crash.

    Follows ``initialize`` of opencv_contrib's ``seeds.cpp`` for two levels: it computes the grid in single
    precision, halves cells once, and runs into undefined behavior when half a cell is below one pixel.
    """
    requested = max(requested, FEWEST)
    ratio = np.float32(requested) * np.float32(height) / np.float32(width)
    rows = int(np.sqrt(ratio))
    columns = rows * width // height
    if rows < 1 or columns < 1 or width < 2 * columns or height < 2 * rows:
        return None
    rows = height // -(-height // (2 * rows)) // 2
    columns = width // -(-width // (2 * columns)) // 2
    return (rows, columns) if rows and columns else None


@lru_cache(maxsize=64, typed=True)
def cells_of(height: int, width: int, count: int) -> tuple[int, int, int]:
    """Rows, columns, and the request to OpenCV; 0 means that a plain grid takes its place."""
    requested = min(count, (height // 2) * (width // 2))
    cells = opencv_cells(height, width, requested) if requested >= FEWEST else None
    if cells is not None:
        return (*cells, requested)
    rows = min(height, count, max(1, int((count * height / width) ** 0.5)))
    return rows, max(1, min(width, count // rows)), 0


def plain_grid(height: int, width: int, rows: int, columns: int) -> NDArray[np.int32]:
    """The labels int32 (height, width) of a grid, row by row."""
    y = np.arange(height) * rows // height
    x = np.arange(width) * columns // width
    return np.asarray(y[:, None] * columns + x, np.int32)


def enlarge(labels: NDArray[np.int32], height: int, width: int) -> NDArray[np.int32]:
    """The labels int32 (height, width) of smaller ones, by nearest."""
    high, wide = labels.shape
    if not height % high and not width % wide:  # Half of the time; other ratios OpenCV rounds.
        return np.asarray(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST), np.int32)
    rows, columns = np.arange(height) * high // height, np.arange(width) * wide // width
    return np.asarray(labels.take(columns, 1).take(rows, 0))
