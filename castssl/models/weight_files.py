"""The names of the weights in a folder: a run's, and those of ``save_pretrained``."""

from __future__ import annotations

from pathlib import Path

from castssl.errors import DataError

NAMES = ("encoder.safetensors", "model.safetensors")
"""The weights in the folder of a finished run, and in one of ``save_pretrained``."""


def weights_in(folder: Path) -> Path | None:
    """The file of :data:`NAMES` in a folder; None if it has none.

    Neither name goes before the other: the two files may hold weights of different trainings.

    Raises:
        DataError: if it has both.
    """
    files = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(files) > 1:
        raise DataError(
            f"{folder} has two files of weights: {NAMES[0]}, which a run writes, and {NAMES[1]}, which"
            f" save_pretrained writes; expected one of them. Give the path of the one to read: {files[0]} or"
            f" {files[1]}"
        )
    return files[0] if files else None
