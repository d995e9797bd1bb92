"""An encoder as it was before it learned anything, to compare with."""

from __future__ import annotations

from copy import deepcopy
from typing import cast

from torch import nn

from castssl.contracts import Encoder
from castssl.models.cast import CAST


def reinitialize(encoder: Encoder) -> Encoder:
    """A copy of the encoder with weights drawn anew from torch's global generator.

    Every module initializes itself by its ``reset_parameters``, and CAST its blocks and class token on top.
    """
    copied = deepcopy(cast(nn.Module, encoder))
    for module in copied.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    if isinstance(copied, CAST):
        copied.initialize(trunc=copied.positions.requires_grad)
    return cast(Encoder, copied)
