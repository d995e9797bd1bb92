"""The weights of a run that has not ended: in its checkpoints, as it would write them at its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from castssl import distributed, step_files
from castssl.checkpoints import native
from castssl.checkpoints.checkpoint import Checkpoint
from castssl.checkpoints.no_weights import END, SHARDED
from castssl.errors import DataError

WEIGHTS = "weights"
"""The entry of a run's checkpoint that holds :meth:`castssl.checkpoints.native.Weights.state_dict`."""
ENTRIES = {"castssl", "config", "step", "batches"}
"""Entries by which a run's checkpoint is known."""


def newest(folder: Path) -> Checkpoint:
    """The weights in the newest whole checkpoint of a run; a note in the log says of which step they are.

    Args:
        folder: of the run, which has a checkpoint.

    Raises:
        DataError: if no checkpoint is whole, or the newest one holds no weights by themselves.
        CastError: if the system refuses to read one.
    """
    found = step_files.newest(folder / step_files.FOLDER)
    if found is None:
        raise DataError(f"the checkpoints in {folder} are gone; {END}")
    path, content = found
    checkpoint = decode(content, path)
    if distributed.is_main():
        _note_once(
            f"{folder} is a run that has not ended; the weights are those of step {content.get('step')}"
        )
    return checkpoint


@cache
def _note_once(note: str) -> None:
    """Log a note, once in a process."""
    logging.getLogger(__name__).warning("%s", note)


def decode(content: Mapping[str, Any], source: str | Path) -> Checkpoint:
    """What the checkpoint of a run holds.

    Args:
        content: of the file, which may come from a stranger.
        source: for messages.

    Raises:
        DataError: if it holds no weights by themselves, or they cannot be read.
    """
    weights = content.get(WEIGHTS)
    if "module" not in content:
        raise DataError(f"{source} {SHARDED}")
    if weights is None:
        raise DataError(
            f"{source} does not say which model its weights are of: an earlier castssl wrote it, or a recipe"
            f" without run.keep(weights); {END}"
        )
    tensors = weights.get(native.TENSORS) if isinstance(weights, Mapping) else None
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise DataError(f"the weights in {source} are damaged; copy the file again")
    named = {str(name): value for name, value in tensors.items()}
    return native.decode(named, str(weights.get(native.SETTINGS)), source)
