"""CTM, clustering-based token merge: density peaks become centers, a learned score weighs the means.

Zeng et al., Not All Tokens Are Equal: Human-centric Visual Analysis via Token Clustering Transformer,
https://arxiv.org/abs/2204.08680, section 3.2; the density is that of Du et al., Study on density peaks
clustering based on k-nearest neighbors and principal component analysis, 2016.
Without the convolution, which superpixels have no grid for (CAST, appendix E.6).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from castssl.contracts import Pooling
from castssl.pooling.arithmetic import check_size, highest, one_hot
from castssl.types import Pooled, Tokens
from castssl_clustering.points import check_count, distances, mean_rows, nearest_pick, points


class CTM(Pooling):
    """Hard clusters around density peaks; a pooled token is the mean weighted by exp(score).

    The score is linear in the normalized token.  It has no bias, which would cancel in the mean.

    Args:
        dim: token width D.
        neighbors: number of nearest tokens that define the density; fewer if there are not so many.

    Raises:
        ValueError: if ``neighbors`` is below 1.
    """

    def __init__(self, dim: int, *, neighbors: int = 5) -> None:
        super().__init__()
        check_count("neighbors", neighbors, 1)
        self.neighbors = neighbors
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool into ``size`` clusters; the class token stays as it is."""
        check_size(tokens, size)
        valid = tokens.mass > 0
        # Mean squares, so that the balance of density and distance does not hang on the width.
        distance = distances(points(tokens, "features"), valid) / tokens.x.shape[-1]
        index = peaks(distance, valid, size, self.neighbors)
        label = nearest_pick(distance, valid, index)
        assign = one_hot(label, size, valid)
        weight = self._weights(tokens.x, assign, label, valid)
        return Pooled(mean_rows(tokens.x, assign * weight[..., None]), tokens.cls, assign)

    def _weights(self, x: Tensor, assign: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        """exp(score), float32 (B, N), scaled so that the largest of each cluster is 1."""
        score: Tensor = self.score(self.norm(x)).squeeze(-1).float()
        inside = score.detach()[..., None].masked_fill(assign == 0, -torch.inf)
        largest = inside.amax(1).gather(1, label)
        return (score - largest).masked_fill(~valid, -torch.inf).exp()


@torch.no_grad()
def peaks(distance: Tensor, valid: Tensor, size: int, neighbors: int) -> Tensor:
    """The tokens with the largest density times distance to a denser token: int64 (B, K).

    The density is exp(-m), m the mean of the squared distances to the k nearest other tokens.  The densest
    token counts with its distance to the farthest; of equally dense tokens the first is the denser.
    Ties of the product go to the lowest index.

    Args:
        distance: squared, of all pairs, float (B, N, N).
        valid: bool (B, N).
        size: how many, at most N.
        neighbors: k.
    """
    count = distance.shape[1]
    same = torch.eye(count, dtype=torch.bool, device=distance.device)
    others = distance.masked_fill(same | ~valid[:, None], torch.inf)
    near = others.topk(min(neighbors, count - 1), largest=False).values
    finite = near.isfinite()
    spread = near.masked_fill(~finite, 0).sum(-1) / finite.sum(-1).clamp(min=1)
    earlier = torch.ones_like(same).tril(-1)
    mine, yours = spread[:, :, None], spread[:, None]
    denser = ((yours < mine) | ((yours == mine) & earlier)) & valid[:, None]
    gap = distance.masked_fill(~denser, torch.inf).amin(-1)
    farthest = distance.masked_fill(~valid[:, None], 0).amax(-1)
    gap = torch.where(gap.isinf(), farthest, gap)
    # The logarithm of the product: densities themselves vanish where tokens are far apart.
    score = 0.5 * gap.clamp(min=torch.finfo(gap.dtype).tiny).log() - spread
    return highest(score.masked_fill(~valid, -torch.inf), size)
