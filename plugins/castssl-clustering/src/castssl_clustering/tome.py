"""ToMe: the most alike tokens of two halves merge, again and again.

Bolya et al., Token Merging: Your ViT But Faster, https://arxiv.org/abs/2210.09461, section 3 and appendix D.
Two ways to place it:

- at CAST's stage borders, ``sizes=(196, 64, 32, 16)``: rounds of at most half of the tokens until K are left;
- in every layer, as in the paper: ``depths=(1,) * 11, sizes=(196, 180, 164, ...)``, one round of 16 each.

Three differences from the paper remain: tokens merge after a block's MLP and not before it; means weigh
tokens by their stem cells and not by how many merged, which is the same where all superpixels have equally
many cells; and padding takes part in nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.contracts import Need, Pooling
from castssl.pooling.arithmetic import check_size, gather, one_hot
from castssl.types import Pooled, Tokens
from castssl_clustering.points import Space, check_option, mean_rows, needed, points


class ToMe(Pooling):
    """Hard clusters by repeated bipartite soft matching; a pooled token is the mean weighted by mass.

    Args:
        dim: token width D, unused: there is nothing to learn.
        metric: what is compared by cosine: the last attention's ``keys`` (the paper's choice), or the
            tokens' ``features``.  Tokens that merged are compared by their mean, weighted by mass.
        proportional: attention of the blocks that follow adds the logarithm of a token's size to its logits,
            so that a token has the weight of those that merged into it.  The size is the number of the finest
            tokens, as in the paper.

    Raises:
        ValueError: if ``metric`` is not one of those named.
    """

    needs: frozenset[Need] = frozenset({"keys"})

    def __init__(self, dim: int, *, metric: Space = "keys", proportional: bool = True) -> None:
        super().__init__()
        check_option("metric", metric, get_args(Space))
        self.metric = metric
        self.proportional = proportional
        self.needs = needed(metric)

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool into ``size`` tokens: first those of the one half that did not merge, then the other half."""
        check_size(tokens, size)
        valid = tokens.mass > 0
        label = join(points(tokens, self.metric), tokens.mass, size)
        assign = one_hot(label, size, valid)
        x = mean_rows(tokens.x, assign * tokens.mass[..., None])
        return Pooled(x, tokens.cls, assign, log_sizes(tokens, assign) if self.proportional else None)


@torch.no_grad()
def log_sizes(tokens: Tokens, assign: Tensor) -> Tensor:
    """The logarithm of how many of the finest tokens each cluster has, float32 (B, K); 0 for padding."""
    sizes = torch.ones_like(tokens.mass) if tokens.bias is None else tokens.bias.exp()
    return (assign * sizes[..., None]).sum(1).clamp(min=1).log()


@torch.no_grad()
def join(where: Tensor, mass: Tensor, size: int) -> Tensor:
    """The place of each token after all rounds, int64 (B, N): float (B, N, d), float32 (B, N).

    The two halves are counted among the tokens that are not padding, wherever padding is.
    """
    valid = mass > 0
    label = (valid.cumsum(1) - 1).clamp(min=0)
    front = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    where, mass, left = gather(where, front), mass.gather(1, front), valid.sum(1)
    for width in widths(valid.shape[1], size):
        merges = torch.minimum(left // 2, (left - size).clamp(min=0))
        place = match(where, left, merges).clamp(max=width - 1)
        label = place.gather(1, label)
        member = one_hot(place, width, mass > 0) * mass[..., None]
        where, mass, left = mean_rows(where, member), member.sum(1), left - merges
    return label


def widths(count: int, size: int) -> Iterator[int]:
    """How many tokens there are at most after each round: at most half of them merge."""
    while count > size:
        count = max(size, count - count // 2)
        yield count


@torch.no_grad()
def match(where: Tensor, left: Tensor, merges: Tensor) -> Tensor:
    """One round of bipartite soft matching: the place of each token after it, int64 (B, N).

    Those that found no partner come first, then the others; all stay in place where no pair merges.

    Every second token looks for the most alike among the others, and the closest of these pairs merge.  The
    halves alternate so that the first token is one that others merge into: in the paper the class token comes
    before it, in the other half, where it is protected.

    Args:
        where: float (B, N, d), compared by cosine.
        left: how many tokens there are, at the front of the rows; int64 (B,).
        merges: how many pairs merge, at most half of ``left``; int64 (B,).
    """
    count = where.shape[1]
    index = torch.arange(count, device=where.device)
    beyond = index >= left[:, None]
    with torch.autocast(where.device.type, enabled=False):
        unit = F.normalize(where, dim=-1)
        cosine = unit[:, 1::2] @ unit[:, ::2].transpose(1, 2)
    cosine = cosine.masked_fill(beyond[:, 1::2, None] | beyond[:, None, ::2], -torch.inf)
    closeness, partner = cosine.max(-1)
    order = closeness.argsort(dim=1, descending=True, stable=True)
    merged = order.argsort(1) < merges[:, None]
    kept = ~merged & ~beyond[:, 1::2]
    into = kept.sum(1, keepdim=True) + index[: count - count // 2]
    leaving = torch.where(merged, into.gather(1, partner), (kept.cumsum(1) - 1).clamp(min=0))
    # Back into one row: what stays is at even, what looked for a partner at odd positions.
    both = torch.cat([into, leaving], 1)
    place = both[:, index // 2 + (index % 2) * (count - count // 2)]
    return torch.where(merges[:, None] > 0, place, index)
