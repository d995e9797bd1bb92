"""No pooling: what lies between two stages of equally many tokens."""

from __future__ import annotations

import torch

from castssl.contracts import Pooling
from castssl.types import Pooled, Tokens


class Identity(Pooling):
    """Each token is its own cluster; all of it is handed on."""

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """The same tokens, whatever ``size`` is."""
        assign = torch.diag_embed((tokens.mass > 0).float())
        return Pooled(tokens.x, tokens.cls, assign, tokens.bias)
