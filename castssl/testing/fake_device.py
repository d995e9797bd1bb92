"""A device without data: shapes and devices as on a GPU, but no values; it needs no GPU.

An operator on tensors of two devices fails as on a GPU, and so does any read of a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor

from castssl.errors import ContractError

Fields = TypeVar("Fields", bound=tuple[Any, ...])


class CopiedToHost(RuntimeError):
    """Values are read by ``.numpy()`` or ``.tolist()``."""


READ = (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException, CopiedToHost)
"""What a read of values raises: a number that the host needs, a shape that depends on values, or a copy."""


@contextmanager
def fake_device() -> Iterator[None]:
    """A context in which tensors have no values, and tensors of the CPU are not on the device.

    Raises:
        ContractError: if tensors of two devices meet in an operator.
    """
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
        try:
            yield
        except Exception as fault:
            if ".numpy()" in str(fault) or ".tolist()" in str(fault):  # torch's own is a plain RuntimeError
                raise CopiedToHost(str(fault)) from fault
            if isinstance(fault, READ) or "device" not in str(fault):
                raise
            raise ContractError(
                f"with weights and input on a GPU it fails: {fault}; make tensors with device=x.device of a"
                " tensor of the input, and register constants by register_buffer"
            ) from fault


def on_device(tensor: Tensor) -> Tensor:
    """A tensor without values on the device, within :func:`fake_device`."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def fields_on_device(value: Fields) -> Fields:
    """A named tuple whose tensors are on the device, also those in lists and tuples of it."""
    kind: Callable[..., Fields] = type(value)
    return kind(*map(_moved, value))


def _moved(field: object) -> object:
    if isinstance(field, Tensor):
        return on_device(field)
    if isinstance(field, tuple) and hasattr(field, "_fields"):
        return fields_on_device(field)
    return [_moved(part) for part in field] if isinstance(field, list) else field


def move(module: nn.Module) -> None:
    """Put a module's parameters and buffers on the device, for good: shared ones stay shared."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        held: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in made:
                    there = on_device(tensor.detach())
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(there, tensor.requires_grad) if is_parameter else there
                tensors[name] = None if tensor is None else made[id(tensor)]
