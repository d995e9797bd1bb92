"""Which tokens become centroids: ``(x, valid, k) -> index``, int64 (B, k), no index twice.

If an image has fewer than k valid tokens, the indices after them point at padding: look at
``valid.gather(1, index)``.  None has a gradient, and none leaves the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from castssl.pooling.arithmetic import highest, masked_mean
from castssl.pooling.farthest_point import pick


@torch.no_grad()
def farthest(x: Tensor, valid: Tensor, k: int, *, start: Tensor | None = None, exact: bool = False) -> Tensor:
    """Farthest point sampling, begun at the mean of the valid tokens (CAST, Algorithm 1).

    Each pick is the token whose distance to the start and to all earlier picks is largest; ties go to the
    lowest index.  A picked token is never picked again, so identical tokens cannot fail.  Above 3,000 tokens
    no matrix of their distances is held.

    Args:
        x: float (B, N, D).
        valid: bool (B, N).
        k: how many, at most N.
        start: another point to begin at, float (B, 1, D); it is not among the picks.
        exact: compute in float64, which gives the picks of the released code.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.float64 if exact else torch.promote_types(x.dtype, torch.float32))
        # The distance to the start then is the norm, and products of tokens cancel less.
        x = x - (masked_mean(x, valid) if start is None else start.to(x.dtype))
        return pick(x, valid, k)


@torch.no_grad()
def random(x: Tensor, valid: Tensor, k: int) -> Tensor:
    """k valid tokens by chance, from torch's global generator."""
    return most_attended(torch.rand(valid.shape, device=x.device), valid, k)


@torch.no_grad()
def most_attended(received: Tensor, valid: Tensor, k: int) -> Tensor:
    """The k valid tokens that received most attention, float (B, N) (PoWER-BERT, arXiv:2001.08950)."""
    return highest(received.masked_fill(~valid, -torch.inf), k)
