"""Checkpoints: everything that a run needs to go on as if it had never stopped, in one file per save.

A file is written aside, flushed to the disk and renamed, so a kill or a full disk leaves the files before it
whole.  It holds tensors and plain values only and is read with ``weights_only=True``: a checkpoint from a
stranger cannot run code.

Under FSDP and DeepSpeed it is a folder, see :mod:`castssl.training.sharded`.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import nn

from castssl.errors import CastError, DataError
from castssl.files import PARTIAL, atomic_write, remove
from castssl.system_errors import explain
from castssl.training.damage import DAMAGE, STATE, damage_of_zip, sums_of

State = dict[str, Any]
FOLDER = "checkpoints"
"""The folder of checkpoints within that of a run."""
NAME = re.compile(r"step-\d{8,}(\.pt)?")
SUMS = "files"
"""The entry of :data:`STATE` that holds size and CRC-32 of each file that Accelerate saved."""


class Latest(NamedTuple):
    """The checkpoint to continue from."""

    path: Path | None
    """None if there is no checkpoint at all."""
    damaged: dict[Path, str]
    """The later checkpoints that are damaged, each with the reason."""

    def story(self) -> list[str]:
        """One sentence for each damaged checkpoint."""
        return [
            f"the checkpoint {path} is damaged ({reason}) and is passed over; it is deleted when the next one"
            " is written"
            for path, reason in self.damaged.items()
        ]


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


def path_of(folder: Path, step: int) -> Path:
    """Where :func:`save` writes."""
    return folder / f"step-{step:08d}.pt"


def latest(folder: Path) -> Latest:
    """The whole checkpoint with the most steps, by the check sums of all its bytes.

    Raises:
        DataError: if there are checkpoints and none of them is whole.
        CastError: if the system refuses to read one.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(_all(folder)):
        reason = damage(path)
        if not reason:
            return Latest(path, damaged)
        damaged[path] = reason
    if damaged:
        shown = "".join(f"\n  {path.name}: {reason}" for path, reason in damaged.items())
        raise DataError(
            f"no checkpoint in {folder} is whole:{shown}\nrestore one from a copy; or delete {folder.parent},"
            " or choose another --out, to start anew"
        )
    return Latest(None, {})


def exist(folder: Path) -> bool:
    """True if there is a checkpoint, whole or not."""
    return bool(_all(folder))


def damage(path: Path) -> str:
    """What is wrong with the bytes of a checkpoint, by its check sums; empty if it is whole.

    Raises:
        CastError: if the system refuses to read it.
    """
    try:
        if not path.is_dir():
            return damage_of_zip(path)
        reason = damage_of_zip(path / STATE)
        saved = {} if reason else read(path).get(SUMS, {})
        now = sums_of(path) if saved else {}
        wrong = [name for name in saved if saved[name] != now.get(name)]
        return reason or (f"{', '.join(wrong)} changed since it was written" if wrong else "")
    except OSError as error:
        if error.errno in DAMAGE:
            return str(error.strerror)
        raise CastError(
            f"cannot read the checkpoint {path} ({error.strerror}); fix this and run the same command again"
        ) from error


def read(path: Path) -> State:
    """What was saved, tensors on the CPU.

    Raises:
        DataError: if the file is damaged, or holds what could run code.
    """
    try:
        state = torch.load(path / STATE if path.is_dir() else path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message advises to load it all the same.
        raise DataError(
            f"{path} holds more than tensors and plain values, so loading it might run code; delete it to go"
            " on from the one before"
        ) from None
    except Exception as error:
        if explain(error):
            raise  # The fault is not the file's.
        raise DataError(
            f"cannot read the checkpoint {path} ({error}); delete it to go on from the one before"
        ) from error
    if not isinstance(state, dict):
        raise DataError(f"{path} holds a {type(state).__name__}, expected a checkpoint of castssl")
    return state


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


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if NAME.fullmatch(path.name))


def _is_whole(path: Path) -> bool:
    """False for a file that lost its end, where the zip format keeps its directory; costs no reading."""
    return (path / STATE).is_file() if path.is_dir() else zipfile.is_zipfile(path)


def prune(folder: Path, keep: int, damaged: Collection[Path]) -> None:
    """Delete the damaged checkpoints, all but the latest ``keep`` others, and what was left half written."""
    every = _all(folder)
    kept = [path for path in every if path not in damaged and _is_whole(path)][-max(keep, 1) :]
    for path in [*(path for path in every if path not in kept), *folder.glob(f".step-*{PARTIAL}")]:
        remove(path)
