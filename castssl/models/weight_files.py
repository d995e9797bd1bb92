"""The names of the weights in a folder: a run's, and those of ``save_pretrained``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from castssl.errors import DataError

NAMES = ("encoder.safetensors", "model.safetensors")
"""The weights in the folder of a finished run, and in one of ``save_pretrained``."""


def refuse_two(files: Sequence[Path]) -> None:
    """Refuse a folder with both files of :data:`NAMES`, which may hold weights of different trainings.

    Args:
        files: those that it has.

    Raises:
        DataError: if these are two.
    """
    if len(files) > 1:
        raise DataError(
            f"{files[0].parent} has two files of weights: {NAMES[0]}, which a run writes, and {NAMES[1]},"
            f" which save_pretrained writes; expected one. Give the path of one: {files[0]} or {files[1]}"
        )
