"""What mmsegmentation 1.2.2 and mmengine 0.10.7 need to run on PyTorch 2.6 and later, without compiled mmcv.

The fork that is still developed (onedl-mmsegmentation, onedl-mmengine, onedl-mmcv) installs the same packages
and needs none of it: :func:`prepare` changes nothing there.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

_PREPARED: list[bool] = []


def prepare() -> None:
    """Make mmseg importable and its checkpoints loadable; call it before mmseg is imported.  Idempotent.

    * ``mmcv.ops``: mmcv-lite has no compiled operators, yet some heads and losses of mmseg import them by
      name.  Where the import fails, a stand-in takes its place, whose members raise when they are used.
    * ``torch.load`` refuses every class of a checkpoint that is not listed (``weights_only=True``).  What
      mmengine writes beside weights, its logged scalars, is added to that list by name.
    """
    if _PREPARED:
        return
    try:
        importlib.import_module("mmcv.ops")
    except ImportError:
        import mmcv

        stand_in = _Operators("mmcv.ops")
        sys.modules["mmcv.ops"] = stand_in
        mmcv.ops = stand_in
    torch.serialization.add_safe_globals(_logged_scalars())
    _PREPARED.append(True)


class _Operators(ModuleType):
    """A module in which every public name is a class that cannot be built."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        operator = type(name, (_Missing,), {"__module__": self.__name__})
        setattr(self, name, operator)
        return operator


class _Missing(nn.Module):
    """A compiled operator that is not installed."""

    def __new__(cls, *args: object, **kwargs: object) -> _Missing:
        raise ImportError(
            f"{cls.__name__} is a compiled operator of mmcv, which mmcv-lite lacks."
            "  No model of castssl-mmseg uses it; for other models install mmcv with compiled operators"
        )


def _logged_scalars() -> list[Any]:
    """What the message hub of a checkpoint consists of: mmengine's history of scalars, and NumPy arrays."""
    from mmengine.logging.history_buffer import HistoryBuffer

    multiarray = importlib.import_module(np.ndarray.__reduce__(np.empty(0))[0].__module__)
    dtypes = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)}
    arrays = [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar, *dtypes]
    # A history is pickled together with its statistics, as getattr(HistoryBuffer, "mean").
    return [HistoryBuffer, *arrays, (_statistic, "builtins.getattr")]


def _statistic(owner: object, name: str) -> Any:
    """The method of a history of scalars that a checkpoint names, in place of ``getattr``.

    Raises:
        pickle.UnpicklingError: if the checkpoint asks for anything else.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise pickle.UnpicklingError(f"the checkpoint asks for {name!r} of {owner!r}, which no file is given")
    return vars(HistoryBuffer)[name]
