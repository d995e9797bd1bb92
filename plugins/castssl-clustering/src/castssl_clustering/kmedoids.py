"""K-medoids: tokens join the nearest of K tokens, each the most central of its cluster.

CAST, Table 5a ("K-Medoids"); H.-S. Park and C.-H. Jun, A simple and fast algorithm for K-medoids clustering,
2009.
"""

from __future__ import annotations

from typing import Literal, get_args

from castssl.contracts import Pooling
from castssl.pooling.arithmetic import check_size, gather, one_hot
from castssl.types import Pooled, Tokens
from castssl_clustering.lloyd import Start, begin, medoids
from castssl_clustering.points import (
    Space,
    check_count,
    check_option,
    distances,
    mean_rows,
    needed,
    points,
)

Keep = Literal["mean", "medoid"]


class KMedoids(Pooling):
    """Hard clusters by K-medoids under the Euclidean distance.

    Args:
        dim: token width D, unused: there is nothing to learn.
        iterations: how often the medoids move.
        start: the first medoids: farthest point sampling, or tokens by chance.
        metric: what is compared: the tokens' ``features``, or the last attention's ``keys``.
        keep: what a pooled token is: the ``mean`` of its cluster, so that gradient reaches every token, or
            the ``medoid`` itself.

    Raises:
        ValueError: if an option is not one of those named.
    """

    def __init__(
        self,
        dim: int,
        *,
        iterations: int = 5,
        start: Start = "farthest",
        metric: Space = "features",
        keep: Keep = "mean",
    ) -> None:
        super().__init__()
        check_count("iterations", iterations, 0)
        check_option("start", start, get_args(Start))
        check_option("metric", metric, get_args(Space))
        check_option("keep", keep, get_args(Keep))
        self.iterations = iterations
        self.start = start
        self.metric = metric
        self.keep = keep
        self.needs = needed(metric)

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool into ``size`` clusters; an empty one is padding."""
        check_size(tokens, size)
        valid = tokens.mass > 0
        where = points(tokens, self.metric)
        index = begin(where, valid, size, self.start)
        label, index = medoids(distances(where, valid).sqrt(), valid, index, self.iterations)
        assign = one_hot(label, size, valid)
        if self.keep == "mean":
            return Pooled(mean_rows(tokens.x, assign), tokens.cls, assign)
        joined = assign.sum(1) > 0
        return Pooled(gather(tokens.x, index) * joined[..., None], tokens.cls, assign)
