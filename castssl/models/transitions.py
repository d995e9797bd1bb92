"""Between two stages: no pooling at all, and the way back from coarse tokens to the finest."""

from __future__ import annotations

import torch
from torch import Tensor

from castssl.contracts import Pooling
from castssl.types import Pooled, Tokens


class Identity(Pooling):
    """The pooling between two stages of equally many tokens: each token is its own cluster."""

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """The same tokens, whatever ``size`` is."""
        return Pooled(tokens.x, tokens.cls, torch.diag_embed((tokens.mass > 0).float()), tokens.bias)


def unpool(x: Tensor, index: Tensor) -> Tensor:
    """The tokens of a stage at the finest tokens (Eq. 4): (B, K, D), int64 (B, N) -> (B, N, D)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
