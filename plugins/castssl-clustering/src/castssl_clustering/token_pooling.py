"""Token Pooling: clusters that weigh a token by the attention it received.

Marin et al., Token Pooling in Vision Transformers, https://arxiv.org/abs/2110.03860.
"""

from __future__ import annotations

from typing import Literal, get_args

from castssl.contracts import Need, Pooling
from castssl.pooling.arithmetic import check_size, gather, one_hot
from castssl.pooling.centroids import most_attended
from castssl.types import Pooled, Tokens
from castssl_clustering.lloyd import means, medoids
from castssl_clustering.points import check_count, check_option, distances, mean_rows, points, recorded

Centers = Literal["means", "medoids"]
LEAST = 1e-6
"""Least significance: a cluster of tokens without attention has a mean, too."""


class TokenPooling(Pooling):
    """Weighted K-means or K-medoids that minimise the significance-weighted squared error.

    The significance of a token is the attention it received in the last block (mean over heads, sum over
    queries); the K most significant tokens are the first centers.  Clusters and weights have no gradient.

    Args:
        dim: token width D, unused: there is nothing to learn.
        centers: ``means`` pools into weighted means; ``medoids`` into the tokens that stand for their cluster
            with the least weighted squared error.
        iterations: how often the centers move.

    Raises:
        ValueError: if an option is not one of those named.
    """

    needs: frozenset[Need] = frozenset({"received"})

    def __init__(self, dim: int, *, centers: Centers = "means", iterations: int = 5) -> None:
        super().__init__()
        check_option("centers", centers, get_args(Centers))
        check_count("iterations", iterations, 0)
        self.centers = centers
        self.iterations = iterations

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool into ``size`` clusters; an empty one is padding."""
        check_size(tokens, size)
        valid = tokens.mass > 0
        weight = recorded(tokens, "received").detach().clamp(min=LEAST) * valid
        index = most_attended(weight, valid, size)
        where = points(tokens, "features")
        if self.centers == "means":
            label = means(where, valid, index, self.iterations, weight)
            assign = one_hot(label, size, valid)
            return Pooled(mean_rows(tokens.x, assign * weight[..., None]), tokens.cls, assign)
        label, index = medoids(distances(where, valid), valid, index, self.iterations, weight)
        assign = one_hot(label, size, valid)
        joined = assign.sum(1) > 0
        return Pooled(gather(tokens.x, index) * joined[..., None], tokens.cls, assign)
