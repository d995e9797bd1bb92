"""Modules in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import nn

    from castssl.contracts import Module


@contextmanager
def evaluating(module: nn.Module | Module) -> Iterator[None]:
    """``module`` in evaluation mode; afterwards each module in it is in its own mode again.

    Not the same as ``train()`` afterwards: frozen parts stay in evaluation mode.
    """
    modules = list(cast("nn.Module", module).modules())
    modes = [each.training for each in modules]
    module.eval()
    try:
        yield
    finally:
        for each, mode in zip(modules, modes, strict=True):
            each.training = mode
