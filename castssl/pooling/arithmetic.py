"""Small batched pieces that poolings are made of; public, for plugin authors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.types import Tokens


def check_size(tokens: Tokens, size: int) -> None:
    """Refuse a size that N tokens cannot be pooled to.

    Raises:
        ValueError: unless 1 <= size <= N.
    """
    if not 1 <= size <= tokens.x.shape[1]:
        raise ValueError(
            f"cannot pool {tokens.x.shape[1]} tokens into {size}: expected 1 <= size <= {tokens.x.shape[1]};"
            " give smaller sizes, or more superpixels"
        )


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Rows by index: (B, N, D), int64 (B, K) -> (B, K, D)."""
    # Whole rows by number: x.gather reads an index for each of their elements, and takes ten times as long.
    first = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    rows = x.flatten(0, 1).index_select(0, (index + first).flatten())
    return rows.view(*index.shape, x.shape[-1])


def highest(scores: Tensor, k: int) -> Tensor:
    """The columns of the k highest scores of each row, the highest first: (B, N) -> int64 (B, k).

    Of equal scores the lowest column comes first; ``torch.topk`` takes any, as device and runtime have it.
    """
    return scores.argsort(dim=1, descending=True, stable=True)[:, :k]


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """The mean of the valid rows: (B, N, D), bool (B, N) -> (B, 1, D); 0 if none is valid."""
    weight = valid.to(x.dtype)[:, None]
    with torch.autocast(x.device.type, enabled=False):
        # A product with the weights reads x once, and writes no copy of it.
        return weight @ x / weight.sum(-1, keepdim=True).clamp(min=1)


def one_hot(index: Tensor, size: int, valid: Tensor) -> Tensor:
    """A hard ``assign``: int64 (B, N) -> float32 (B, N, size), rows of padding all 0."""
    return F.one_hot(index, size).float() * valid[..., None]


def weighted_mean(x: Tensor, assign: Tensor) -> Tensor:
    """The mean of the rows of each cluster: (B, N, D), (B, N, K) -> (B, K, D); 0 for an empty cluster.

    Not weighted by mass; multiply ``assign`` by it to have that.
    """
    assign = assign.to(x.dtype)
    total = assign.transpose(1, 2) @ x
    # Summed in float32: the sum of many half-precision weights would not be exact.
    weight = assign.float().sum(1).clamp(min=torch.finfo(torch.float32).tiny)
    return (total / weight[..., None]).to(x.dtype)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise squared distances by one matrix product: (B, N, D), (B, K, D) -> (B, N, K), at least 0.

    Float32 or better also under autocast: in bfloat16 the cancellation makes wrong neighbors.
    Center the points first where accuracy matters.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = (v.to(torch.promote_types(v.dtype, torch.float32)) for v in (a, b))
        norms = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None]
        return torch.baddbmm(norms, a, b.transpose(1, 2), alpha=-2).clamp_(min=0)


def nearest(x: Tensor, centers: Tensor, present: Tensor) -> Tensor:
    """The nearest center of each row: (B, N, D), (B, K, D), bool (B, K) -> int64 (B, N).

    A center that is not ``present`` is never chosen.
    """
    middle = x.float().mean(1, keepdim=True)
    far = squared_distances(x - middle, centers - middle).masked_fill(~present[:, None], float("inf"))
    return far.argmin(-1)
