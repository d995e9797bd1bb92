"""What a call leaves as it was: the modes of modules, and the global random generators."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def gathered(tensor: Tensor) -> Tensor:
    """The tensor itself; all of one that FSDP has sharded over the processes, which call this together."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return tensor
    whole: Tensor = tensor.full_tensor()
    return whole.detach()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode; afterwards each module in it is in its own mode again.

    Not the same as ``train()`` afterwards: frozen parts stay in evaluation mode.  Parameters that FSDP has
    sharded are whole inside, without gradient: it gathers them in the forward pass of the whole objective
    alone, and not for an encoder in it.
    """
    modules = list(module.modules())
    modes = [part.training for part in modules]
    module.eval()
    sharded = _gather_parameters(modules)
    try:
        yield
    finally:
        for part, name, parameter in sharded:
            part._parameters[name] = parameter
        for part, mode in zip(modules, modes, strict=True):
            part.training = mode


def _gather_parameters(modules: Sequence[nn.Module]) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Put whole parameters in the places of those that are sharded: these, and their places."""
    from torch import nn

    sharded = []
    for part in modules:
        for name, parameter in [*part._parameters.items()]:
            if parameter is not None and (whole := gathered(parameter)) is not parameter:
                part._parameters[name] = nn.Parameter(whole, requires_grad=False)
                sharded.append((part, name, parameter))
    return sharded


@contextmanager
def kept_random_state(*devices: torch.device) -> Iterator[None]:
    """Python's, numpy's and torch's global generators are afterwards as they were before.

    Args:
        devices: GPUs whose generators are kept, too; other devices are passed by.
    """
    import numpy as np
    import torch

    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - the caller's, not ours
    try:
        with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
