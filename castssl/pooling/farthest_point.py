"""The picks of farthest point sampling: from one matrix of distances, or with a row of it for each pick.

Both begin at the origin; :func:`castssl.pooling.centroids.farthest` moves it to the start.  Rows take k N D
products in place of N^2 D, but each pick waits for its row: up to 3,000 tokens the matrix is faster.  A
product of matrices and one of a matrix and a vector sum in different orders, so that last bits of distances
differ.  Where two tokens are equally far to that precision, the picks may differ, and later picks with them.
"""

from __future__ import annotations

import torch
from torch import Tensor

MATRIX = 3000
"""Tokens up to which an image has a matrix of distances: 34 MiB in float32."""


def pick(x: Tensor, valid: Tensor, k: int) -> Tensor:
    """int64 (B, k): each the token farthest from the origin and from all earlier picks, lowest index first.

    Args:
        x: float32 or float64 (B, N, D).
        valid: bool (B, N).
        k: how many, at most N.
    """
    if x.shape[1] <= MATRIX:
        return by_matrix(x, valid, k)
    if x.device.type != "cpu":
        return by_rows(x, valid, k)
    # An image at a time: its tokens stay in the cache from one pick to the next.
    return torch.cat([by_rows(*image, k) for image in zip(x.split(1), valid.split(1), strict=True)])


def by_matrix(x: Tensor, valid: Tensor, k: int) -> Tensor:
    """As :func:`pick`, from all distances between tokens: B N^2 numbers."""
    gram = x @ x.transpose(1, 2)
    norms = gram.diagonal(dim1=1, dim2=2).clone()
    distance = gram.mul_(-2).add_(norms[:, :, None]).add_(norms[:, None]).clamp_(min=0)
    # A pick becomes the nearest of all to itself, and so is never the farthest again.
    # (Not through a view of the diagonal, which torch's export to ONNX cannot write to.)
    distance.masked_fill_(torch.eye(x.shape[1], dtype=torch.bool, device=x.device), -torch.inf)
    rows = distance.flatten(0, 1)
    first = torch.arange(x.shape[0], device=x.device) * x.shape[1]
    to_chosen = norms.masked_fill(~valid, -1.0)
    picks = []
    for _ in range(k):
        picks.append(to_chosen.argmax(1))
        to_chosen = torch.minimum(to_chosen, rows.index_select(0, first + picks[-1]))
    return torch.stack(picks, 1)


def by_rows(x: Tensor, valid: Tensor, k: int) -> Tensor:
    """As :func:`pick`, with the distances to the latest pick alone, and a transposed copy of x."""
    norms, columns = x.square().sum(2), x.transpose(1, 2).contiguous()
    to_chosen = norms.masked_fill(~valid, -1.0)
    picks = []
    for _ in range(k):
        picks.append(to_chosen.argmax(1, keepdim=True))
        chosen = x.gather(1, picks[-1][:, :, None].expand(-1, -1, x.shape[2]))
        row = torch.baddbmm(norms[:, None], chosen, columns, alpha=-2)[:, 0]
        row = row.add_(norms.gather(1, picks[-1])).clamp_(min=0).scatter(1, picks[-1], -torch.inf)
        to_chosen = torch.minimum(to_chosen, row)
    return torch.cat(picks, 1)
