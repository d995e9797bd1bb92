"""Files of label maps become class numbers: one rule for masks, palette images and 16 bits.

A label map is an image of one channel whose values are classes, of the size of its image.  It is read as it
is stored: palette images by their indices, not their colors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from castssl.contracts import LabelMaps
from castssl.datasets.decode import header
from castssl.datasets.orientation import fitted
from castssl.datasets.unreadable import why
from castssl.errors import DataError
from castssl.system_errors import explain

Labels = NDArray[np.int32]
"""int32 (H, W), each a class or -1, which is unknown."""
UNKNOWN = -1
IGNORED = 255
"""The value of published label maps for pixels without a class."""
_HIGHEST = 65535


def class_table(
    classes: int, *, reduce_zero_label: bool = False, ignored: int | None = IGNORED
) -> dict[int, int]:
    """The class of each value of label maps that number their classes in order.

    Args:
        classes: C.
        reduce_zero_label: 0 is unknown, and the values 1 to C are the classes 0 to C - 1.
        ignored: a further value that is unknown.

    Raises:
        DataError: if there are no classes, more than 16 bits can hold, or one that is ignored.
    """
    first = int(reduce_zero_label)
    if not 1 <= classes <= _HIGHEST + 1 - first:
        raise DataError(f"classes: got {classes}, expected 1 to {_HIGHEST + 1 - first}")
    if ignored is not None and first <= ignored < classes + first:
        raise DataError(f"the ignored value {ignored} is one of {classes} classes; give another one")
    table = {} if ignored is None else {ignored: UNKNOWN}
    table |= {0: UNKNOWN} if reduce_zero_label else {}
    return table | {value + first: value for value in range(classes)}


def open_labels(maps: LabelMaps, row: int) -> Image.Image:
    """The loaded file of a label map.

    Raises:
        DataError: if the file is missing or broken.
        Exception: if the system is at fault.
    """
    try:
        with maps.source.open(row) as file:
            opened = header(file)
            opened.load()
    except Exception as error:  # Decoders raise almost anything on a broken file.
        if explain(error):
            raise
        raise DataError(f"its label map {maps.source.path(row)}: {why(error)}") from error
    return opened


def to_classes(
    opened: Image.Image, maps: LabelMaps, row: int, size: tuple[int, int], orientation: int
) -> Labels:
    """The classes of a label map as it lies on its upright image.

    Args:
        opened: from :func:`open_labels`.
        maps: the label maps of the data set.
        row: of the label map, for messages.
        size: width and height of the upright image.
        orientation: of the image, by EXIF.

    Raises:
        DataError: naming the file, if it has colors, another size than its image, or a value without a class.
    """
    path = maps.source.path(row)
    if len(opened.getbands()) > 1 or opened.mode == "F":
        raise DataError(
            f"the label map {path} has the mode {opened.mode}, expected one channel of class numbers; convert"
            " a label map of colors: write the number of each color's class as a PNG of 8 or 16 bits"
        )
    if opened.format == "JPEG":
        raise DataError(f"the label map {path} is a JPEG, whose compression changes class numbers; use PNG")
    try:
        opened = fitted(opened, size, orientation)
    except DataError:
        raise DataError(
            f"the label map {path} has {opened.width} x {opened.height} pixels, expected {size[0]} x"
            f" {size[1]} as its image; pair the right files, or resize the label map by nearest neighbor"
        ) from None
    return _look_up(np.asarray(opened), maps.classes, path)


def _look_up(values: NDArray[Any], classes: Mapping[int, int], path: str) -> Labels:
    values = values.astype(np.int64)
    table = np.full(_HIGHEST + 2, -2, dtype=np.int32)
    table[list(classes)] = list(classes.values())
    labels: Labels = table[np.where((values < 0) | (values > _HIGHEST), _HIGHEST + 1, values)]
    if (strange := labels == -2).any():
        row, column = np.argwhere(strange)[0].tolist()
        raise DataError(
            f"the label map {path} has the value {values[row, column]} (row {row}, column {column};"
            f" {strange.sum():,} of {strange.size:,} pixels have such values), expected"
            f" {_ranges(classes)}{_hint(values)}"
        )
    return labels


def _ranges(values: Any) -> str:
    """Numbers as text, with each run as its ends: "0 to 20, 255"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(f"{low} to {high}" if high > low else str(low) for low, high in runs)


def _hint(values: NDArray[np.int64]) -> str:
    if set(np.unique(values).tolist()) <= {0, 255}:
        return "; for masks of 0 and 255 give pairs: the option values=0,255, or ignore=255 if 255 is unknown"
    return "; check the number of classes, reduce_zero_label, and whether these are the right files"
