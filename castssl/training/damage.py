"""Damage of the bytes of a checkpoint, by its check sums."""

from __future__ import annotations

import errno
import pickle
import zipfile
import zlib
from pathlib import Path

import torch

STATE = "place.pt"
"""The file, in a sharded checkpoint's folder, of what Accelerate does not save."""
DAMAGE = (errno.EIO, errno.EINVAL, errno.EOVERFLOW)
"""The system's errors that mean damage: a failing disk, and places that damaged headers point to."""


def damage_of_zip(path: Path) -> str:
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
