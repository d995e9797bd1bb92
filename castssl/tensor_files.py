"""Files of tensors, in safetensors' format."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from castssl.files import LFS, atomic_write

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], what: str = "weights"
) -> None:
    """Write a safetensors file by :func:`castssl.files.atomic_write`; equal content gives equal bytes.

    Args:
        path: the file.
        tensors: any strides and any device; tensors that share memory are written once each.
        metadata: texts by name.  ``format: pt``, which other readers expect, is added.
        what: the name of the content in a message.

    Raises:
        CastError: if the system refuses to write it.
    """
    from safetensors.torch import save_file

    # safetensors refuses two names of one memory, and strides.
    content = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_write(path, what) as aside:
        save_file(content, aside, metadata={**metadata, "format": "pt"})
        _sort_metadata(aside)


def not_safetensors(path: str | Path, error: Exception) -> str:
    """Why a file cannot be read as safetensors: a pointer of Git LFS, or the message of the library.

    Raises:
        OSError: if the process may open no more files; the library reports that as a missing file.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(LFS)) == LFS:
                return "it is a pointer of Git LFS in place of the file: run git lfs pull where it lies"
    except OSError as refused:
        if refused.errno in (errno.EMFILE, errno.ENFILE):
            raise
    return str(error)


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order; the library writes them in a random one."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # else the library spells JSON in another way, which is as valid
            file.seek(8)
            file.write(text.ljust(length))
