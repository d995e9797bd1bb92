"""The checkpoints of a run as files: which ones there are, whether they are whole, and what they hold.

:mod:`castssl.training.checkpoint` writes them.  They are read with ``weights_only=True``: a checkpoint from a
stranger cannot run code.  A run that goes on deletes all but its latest ones, also while others read them.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from castssl.errors import CastError, DataError
from castssl.system_errors import explain

State = dict[str, Any]
FOLDER = "checkpoints"
"""The folder of checkpoints within that of a run."""
NAME = re.compile(r"step-\d{8,}(\.pt)?")
STATE = "place.pt"
"""The file, in a sharded checkpoint's folder, of what Accelerate does not save."""
SUMS = "files"
"""The entry of :data:`STATE` that holds size and CRC-32 of each file that Accelerate saved."""
DAMAGE = (errno.EIO, errno.EINVAL, errno.EOVERFLOW)
"""The system's errors that mean damage: a failing disk, and places that damaged headers point to."""


class Vanished(DataError):
    """A checkpoint that was there is gone, as its run wrote a later one."""


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


def latest(folder: Path) -> Latest:
    """The whole checkpoint with the most steps, by the check sums of all its bytes.

    Raises:
        DataError: if there are checkpoints and none of them is whole.
        CastError: if the system refuses to read one.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(every(folder)):
        reason = damage(path)
        if not reason:
            return Latest(path, damaged)
        if not os.path.lexists(path):
            return latest(folder)  # Its run has replaced it by a later one.
        damaged[path] = reason
    if damaged:
        shown = "".join(f"\n  {path.name}: {reason}" for path, reason in damaged.items())
        raise DataError(
            f"no checkpoint in {folder} is whole:{shown}\nrestore one from a copy; or delete {folder.parent},"
            " or choose another --out, to start anew"
        )
    return Latest(None, {})


def newest(folder: Path) -> tuple[Path, State] | None:
    """The path and the content of what :func:`latest` finds; None if there is no checkpoint at all.

    Raises:
        DataError: as :func:`latest`, or if it holds what could run code.
        CastError: as :func:`latest`.
    """
    while (path := latest(folder).path) is not None:
        with suppress(Vanished):
            return path, read(path)
    return None


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint after so many optimizer steps is."""
    return folder / f"step-{step:08d}.pt"


def every(folder: Path) -> list[Path]:
    """The checkpoints in a folder, whole or not, by step."""
    return sorted(path for path in folder.glob("step-*") if NAME.fullmatch(path.name))


def exist(folder: Path) -> bool:
    """True if there is a checkpoint, whole or not."""
    return bool(every(folder))


def read(path: Path) -> State:
    """What was saved, tensors on the CPU.

    Raises:
        Vanished: if it is gone.
        DataError: if the file is damaged, or holds what could run code.
    """
    if not os.path.lexists(path):
        raise Vanished(
            f"the checkpoint {path} is gone: its run replaced it by a later one; give the run's folder"
        )
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
        if isinstance(error, FileNotFoundError) and not os.path.lexists(path):
            return read(path)  # It says why.
        raise DataError(
            f"cannot read the checkpoint {path} ({error}); delete it to go on from the one before"
        ) from error
    if not isinstance(state, dict):
        raise DataError(f"{path} holds a {type(state).__name__}, expected a checkpoint of castssl")
    return state


def damage(path: Path) -> str:
    """What is wrong with the bytes of a checkpoint, by its check sums; empty if it is whole.

    Raises:
        CastError: if the system refuses to read it.
    """
    try:
        if not path.is_dir():
            return _damage_of_zip(path)
        reason = _damage_of_zip(path / STATE)
        saved = {} if reason else read(path).get(SUMS, {})
        now = sums_of(path) if saved else {}
        wrong = [name for name in saved if saved[name] != now.get(name)]
        return reason or (f"{', '.join(wrong)} changed since it was written" if wrong else "")
    except Vanished:
        return f"{path.name} is missing"
    except OSError as error:
        if error.errno in {*DAMAGE, errno.ENOENT}:
            return str(error.strerror)
        raise CastError(
            f"cannot read the checkpoint {path} ({error.strerror}); fix this and run the same command again"
        ) from error


def _damage_of_zip(path: Path) -> str:
    """What is wrong with a file that ``torch.save`` wrote."""
    if not path.is_file():
        return f"{path.name} is missing"
    if not path.stat().st_size:
        return f"{path.name} is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is None:  # torch demands more of the headers; the tensors are not read here
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except pickle.UnpicklingError:
        return ""  # not damaged, but no checkpoint: read() says why
    except Exception as error:  # damaged headers lead both readers astray in many ways
        return str(error).split(". ", 1)[0] or type(error).__name__
    return f"the check sum of {wrong} does not fit" if wrong else ""


def sums_of(folder: Path) -> dict[str, list[int]]:
    """Size and CRC-32 of every file in a folder but :data:`STATE`."""
    sums: dict[str, list[int]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != STATE):
        sum_, size = 0, 0
        with open(path, "rb") as file:
            while piece := file.read(2**24):
                sum_, size = zlib.crc32(piece, sum_), size + len(piece)
        sums[path.relative_to(folder).as_posix()] = [size, sum_]
    return sums
