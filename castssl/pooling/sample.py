"""Random sampling, the simplest pooling.  Read this one first.

CAST, Table 5a ("Random Sampling").
"""

from __future__ import annotations

from castssl.contracts import Pooling
from castssl.pooling.arithmetic import check_size, gather, nearest, one_hot
from castssl.pooling.centroids import random
from castssl.types import Pooled, Tokens


class RandomSampling(Pooling):
    """Keep K random tokens; every other token joins its nearest.

    Args:
        dim: token width D, unused: there is nothing to learn.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool into ``size`` tokens; the kept ones are returned unchanged."""
        check_size(tokens, size)
        valid = tokens.mass > 0
        index = random(tokens.x, valid, size)
        present = valid.gather(1, index)
        kept = gather(tokens.x, index) * present[..., None]
        assign = one_hot(nearest(tokens.x, kept, present), size, valid)
        # A kept token is its own nearest, unless an identical one was kept before it.
        return Pooled(kept, tokens.cls, assign)
