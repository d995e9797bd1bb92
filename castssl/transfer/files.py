"""Checkpoint files are read without running code from them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from castssl.errors import DataError
from castssl.files import not_safetensors


def read(path: str | Path) -> Mapping[str, Any]:
    """Read a checkpoint without running code from it.

    Raises:
        DataError: if the file is missing, is no checkpoint, or holds objects other than tensors and
            plain values.  ``argparse.Namespace``, which the published DeiT file holds, is allowed by name.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}; expected a .pth, .pth.tar, .pt or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if (why := not_safetensors(path, error)) != str(error):
            raise DataError(f"{path}: {why}") from error
        raise DataError(
            f"{path} cannot be read as weights only ({type(error).__name__}: {_cause(error)})."
            " castssl never unpickles objects from a file; convert it to safetensors where you trust it"
        ) from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a dict of tensors")
    return content


def _cause(error: Exception) -> str:
    """The line of torch's long message that names the object."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if re.search(r"GLOBAL|unsupported|Unsupported", line)]
    return (named or lines or ["no message"])[0]
