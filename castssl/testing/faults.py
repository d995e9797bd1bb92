"""What an error of a plugin says about itself in a check: what the plugin was given, and where it failed."""

from __future__ import annotations

import inspect
import linecache
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from castssl import registry
from castssl.types import Batch, Hierarchy, Tokens, View

_OURS = Path(registry.__file__).parent
_CALLERS = (str(_OURS / "testing"), registry.__file__)
"""What calls plugins in a check."""
_LIBRARIES = tuple(str(Path(path).parent) for path in (inspect.getfile(torch), inspect.getfile(np)))
"""What stands between a check and a plugin, and what a plugin calls; so is the standard library."""
_PYTHON = sysconfig.get_path("stdlib")
_INSTALLED = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
"""It may be below the standard library, and is not of it."""
_NAMED = Batch, Hierarchy, Tokens, View
"""Arguments whose fields are tensors."""
_SHOWN = 3
"""Arguments that a message names, at most."""


def described(fault: BaseException) -> str:
    """An error: its type and message, tensors that the plugin was given, and the last line of the plugin."""
    given = ", ".join(_given(fault))
    return located(fault, f", given {given}" if given else "")


def located(fault: BaseException, given: str = "") -> str:
    """An error: its type and message, what it was given, and the last line of the plugin's code."""
    words = f"{type(fault).__name__}: {fault}".rstrip().removesuffix(":") + given
    if not (frames := _frames(fault)):
        return words
    frame, line = frames[-1]
    path = frame.f_code.co_filename
    code = linecache.getline(path, line).strip()
    return f"{words}, at {path}:{line}" + (f" ({code[:160]})" if code else "")


def _frames(fault: BaseException) -> list[tuple[FrameType, int]]:
    """The calls in the plugin's code, the last one the innermost; of a plugin of castssl, castssl's."""
    every = list(traceback.walk_tb(fault.__traceback__))
    ours = [at for at, (frame, _) in enumerate(every, 1) if frame.f_code.co_filename.startswith(_CALLERS)]
    called = every[max(ours, default=0) :]
    own = [part for part in called if not _library(part[0].f_code.co_filename)]
    return [part for part in own if not part[0].f_code.co_filename.startswith(str(_OURS))] or own


def _library(path: str) -> bool:
    """True for torch, numpy and Python itself; other installed packages may be the plugin's."""
    if path.startswith(_INSTALLED):
        return path.startswith(_LIBRARIES)
    return path.startswith(("<", _PYTHON))


def _given(fault: BaseException) -> Iterator[str]:
    """Tensors among the arguments of the plugin's first call, such as "images uint8 (2, 3, 64, 64)"."""
    found = 0
    for frame, _ in _frames(fault)[:1]:
        arguments = inspect.getargvalues(frame)
        names = [*arguments.args, *filter(None, (arguments.varargs, arguments.keywords))]
        for name in names:
            value: Any = arguments.locals.get(name)
            fields = value._asdict() if isinstance(value, _NAMED) else {"": value}
            for field, one in fields.items():
                if isinstance(one, torch.Tensor | np.ndarray) and found < _SHOWN:
                    found += 1
                    dtype = str(one.dtype).removeprefix("torch.")
                    yield f"{name}{'.' * bool(field)}{field} {dtype} {tuple(one.shape)}"
