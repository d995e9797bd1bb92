"""Checkpoints: everything that a run needs to go on as if it had never stopped, in one file per save.

A file is written aside, flushed to the disk and renamed, so a kill or a full disk leaves the files before it
whole.  It holds tensors and plain values only; :mod:`castssl.step_files` reads it.

Under FSDP and DeepSpeed it is a folder, see :mod:`castssl.training.sharded`.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from castssl.errors import DataError
from castssl.files import PARTIAL, atomic_write, remove
from castssl.step_files import STATE, every, path_of


def save(
    folder: Path, state: Mapping[str, Any], *, step: int, keep: int, damaged: Collection[Path] = ()
) -> Path:
    """Write ``state`` to ``folder/step-XXXXXXXX.pt``, then delete all but the latest ``keep`` checkpoints.

    Args:
        folder: made if it is missing.
        state: tensors, numbers, text, and lists, tuples and dicts of these.
        step: optimizer steps done.
        keep: at least 1.
        damaged: checkpoints that are deleted whatever their step.

    Raises:
        CastError: if it cannot be written, for example on a full disk; what was there before is still there.
    """
    path = path_of(folder, step)
    with atomic_write(path, "checkpoint") as aside:
        write_state(aside, state)
    prune(folder, keep, {*damaged} - {path})
    return path


def load_module(module: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Fill ``module``, every parameter and buffer of it.

    Raises:
        DataError: if names or shapes differ.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(
            f"the checkpoint {path} holds another model than {type(module).__name__} ({error}); continue it"
            " with the versions of castssl and plugins that wrote it, or start anew with another --out"
        ) from error


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a file of tensors and plain values, and flush it to the disk."""
    with open(path, "wb") as file:
        torch.save(dict(state), file)
        _to_disk(file)


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _is_whole(path: Path) -> bool:
    """False for a file that lost its end, where the zip format keeps its directory; costs no reading."""
    return (path / STATE).is_file() if path.is_dir() else zipfile.is_zipfile(path)


def prune(folder: Path, keep: int, damaged: Collection[Path]) -> None:
    """Delete the damaged checkpoints, all but the latest ``keep`` others, and what was left half written."""
    found = every(folder)
    kept = [path for path in found if path not in damaged and _is_whole(path)][-max(keep, 1) :]
    for path in [*(path for path in found if path not in kept), *folder.glob(f".step-*{PARTIAL}")]:
        remove(path)
