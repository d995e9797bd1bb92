"""A simulated GPU: tensors that say they are on the device ``simulated``, and compute on the processor.

What a GPU refuses is refused here, too: an operator on tensors of two devices, and a generator of another
device.  What makes the host wait for a GPU is counted, with the line of castssl that does so: a value that
becomes a Python number, a shape that depends on values, a copy to the CPU.  Numbers are those of the CPU.
Autocast, streams, NCCL and the speed of a GPU are not simulated.

As a program it runs a recipe or a command, and writes the lines that waited as JSON::

    python tests/simulated_device.py WAITS.json recipes/moco_in1k.py --data demo ...
    python tests/simulated_device.py WAITS.json castssl segment photo.jpg --device simulated ...

A device in Python is an experimental part of torch.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "simulated"
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""Operators whose indices may be on the CPU."""
READS = (
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default),
    *(aten.masked_select.default, aten._unique2.default, aten.unique_dim.default),
)
"""Operators that end when the device has computed all that was asked of it before."""
ROOT = Path(__file__).resolve().parents[1]
OURS = tuple(f"{ROOT / name}{os.sep}" for name in ("castssl", "plugins", "recipes"))

waits: Counter[str] = Counter()
"""How often the host waited for the device, by file and line of castssl."""


class Mixed(RuntimeError):
    """An operator on tensors of two devices."""


class Backend(backend_registration._DummyBackendModule):
    """``torch.simulated``, what torch asks of the module of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Asked for also where autocast is turned off."""
        return []

    def __getattr__(self, name: str) -> Any:
        if name in ("synchronize", "empty_cache", "set_device", "manual_seed"):
            return lambda *_: None
        raise AttributeError(name)


class SimulatedTensor(Tensor):
    """A tensor of the device; ``held`` has its values, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> SimulatedTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def __repr__(self, *_: object, **__: object) -> str:  # type: ignore[override]
        return f"simulated {self.held!r}"

    def tolist(self) -> Any:
        """As of any tensor; torch has none for subclasses."""
        _wait()
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Stored as a tensor of the CPU."""
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, _types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class Simulated(TorchDispatchMode):
    """A context in which ``device="simulated"`` makes such tensors."""

    def __torch_dispatch__(
        self, func: Any, _types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def register() -> None:
    """Name the device in this process, for good."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    library = torch.library.Library("aten", "IMPL")
    # Indexing with indices of the CPU goes by these, below the dispatch to Python.
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    _kept.append(library)


_kept: list[torch.library.Library] = []


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: object) -> Tensor:
    return SimulatedTensor(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _copy_from(source: Tensor, target: Tensor, _non_blocking: bool = False) -> Tensor:
    _held(target).copy_(_held(source))
    return target


def _held(tensor: Tensor) -> Tensor:
    return tensor.held if isinstance(tensor, SimulatedTensor) else tensor


def _run(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """An operator on the values, and its result on the device that it belongs to."""
    flat, structure = pytree.tree_flatten((args, dict(kwargs)))
    there = [value for value in flat if isinstance(value, SimulatedTensor)]
    wanted = kwargs.get("device")
    makes = wanted is not None and torch.device(wanted).type == NAME
    if there or makes:
        _refuse(func, args, kwargs)
        _count(func, args, leaves=wanted is not None and not makes)
    plain, named = pytree.tree_unflatten([_held(v) if isinstance(v, Tensor) else v for v in flat], structure)
    if wanted is not None:
        named["device"] = torch.device("cpu")
    out = func(*plain, **named)
    if func is aten._local_scalar_dense.default or not (makes or (wanted is None and there)):
        return out
    same = {id(tensor.held): tensor for tensor in there}  # An operator in place returns its argument.
    return pytree.tree_map_only(Tensor, lambda t: same[id(t)] if id(t) in same else SimulatedTensor(t), out)


def _refuse(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise Mixed where CUDA raises its error."""
    if func in COPIES:
        return
    used = [args[0], *args[2:3]] if func in INDEXED else [*args, *kwargs.values()]
    tensors = [value for value in pytree.tree_leaves(used) if isinstance(value, Tensor)]
    here = [t for t in tensors if not isinstance(t, SimulatedTensor)]
    if any(t.ndim > 0 for t in here) and len(here) < len(tensors) + (func in INDEXED):
        raise Mixed(
            f"{func}: expected all tensors on one device, got {[tuple(t.shape) for t in here]} on cpu"
        )
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != NAME:
        raise Mixed(f"{func}: expected a generator of the device {NAME}, got one of {generator.device}")


def _count(func: Any, args: Sequence[Any], *, leaves: bool) -> None:
    """Note what the host waits for."""
    masks = func in INDEXED and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
    if func in READS or masks or (leaves and func in COPIES):
        _wait()


def _wait() -> None:
    """Count the innermost line of castssl, a plugin or a recipe."""
    frames = ((os.path.abspath(f.filename), f.lineno) for f in reversed(traceback.extract_stack()))
    file, line = next((frame for frame in frames if frame[0].startswith(OURS)), (str(ROOT / "elsewhere"), 0))
    waits[f"{os.path.relpath(file, ROOT)}:{line}"] += 1


def main() -> None:
    """Run a recipe or a command on the device."""
    from accelerate.state import PartialState

    register()
    PartialState.default_device = property(lambda _: torch.device(NAME))
    _, report, *sys.argv = sys.argv
    try:
        with Simulated():  # type: ignore[no-untyped-call]
            if sys.argv[0] == "castssl":
                from castssl.cli import main as command

                sys.exit(command())
            sys.path.insert(0, str(Path(sys.argv[0]).parent))
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        Path(report).write_text(json.dumps(waits))


if __name__ == "__main__":
    main()
