"""What a call leaves as it was: the modes of modules, and the global random generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode; afterwards each module in it is in its own mode again.

    Not the same as ``train()`` afterwards: frozen parts stay in evaluation mode.
    """
    modules = list(module.modules())
    modes = [part.training for part in modules]
    module.eval()
    try:
        yield
    finally:
        for part, mode in zip(modules, modes, strict=True):
            part.training = mode


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
