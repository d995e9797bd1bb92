"""An encoder as it was before it learned anything, to compare with."""

from __future__ import annotations

from copy import deepcopy
from typing import Protocol, runtime_checkable

from castssl.contracts import Encoder
from castssl.models.cast import CAST


@runtime_checkable
class Initializes(Protocol):
    """A module that can draw its own parameters anew; torch's layers share the name and no base class."""

    def reset_parameters(self) -> None:
        """Draw them from torch's global generator."""
        ...


def reinitialize(encoder: Encoder) -> Encoder:
    """A copy of the encoder with weights drawn anew from torch's global generator.

    Every module initializes itself by its ``reset_parameters``, and CAST its blocks and class token on top.
    """
    copied = deepcopy(encoder)
    for module in copied.modules():
        if isinstance(module, Initializes):
            module.reset_parameters()
    if isinstance(copied, CAST):
        copied.initialize(trunc=copied.positions.requires_grad)
    return copied
