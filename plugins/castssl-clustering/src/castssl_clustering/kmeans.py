"""K-means: tokens join the nearest of K means.

CAST, Table 5a ("K-Means"); S. Lloyd, Least squares quantization in PCM, 1982.
"""

from __future__ import annotations

from typing import get_args

from castssl.contracts import Pooling
from castssl.pooling.arithmetic import check_size, one_hot
from castssl.types import Pooled, Tokens
from castssl_clustering.lloyd import Start, begin, means
from castssl_clustering.points import Space, check_count, check_option, mean_rows, needed, points


class KMeans(Pooling):
    """Hard clusters by K-means; a pooled token is the mean of its cluster.

    The clusters are found without gradient, in float32; the means pass it on.

    Args:
        dim: token width D, unused: there is nothing to learn.
        iterations: how often the centers move.
        start: the first centers: farthest point sampling, or tokens by chance.
        metric: what is compared: the tokens' ``features``, or the last attention's ``keys``.

    Raises:
        ValueError: if an option is not one of those named.
    """

    def __init__(
        self, dim: int, *, iterations: int = 5, start: Start = "farthest", metric: Space = "features"
    ) -> None:
        super().__init__()
        check_count("iterations", iterations, 0)
        check_option("start", start, get_args(Start))
        check_option("metric", metric, get_args(Space))
        self.iterations = iterations
        self.start = start
        self.metric = metric
        self.needs = needed(metric)

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool into ``size`` means; a mean without tokens is padding."""
        check_size(tokens, size)
        valid = tokens.mass > 0
        where = points(tokens, self.metric)
        index = begin(where, valid, size, self.start)
        assign = one_hot(means(where, valid, index, self.iterations), size, valid)
        return Pooled(mean_rows(tokens.x, assign), tokens.cls, assign)
