"""The picks of farthest point sampling: from one matrix of distances, or from rows of it as they are needed.

All begin at the origin; :func:`castssl.pooling.centroids.farthest` moves it to the start.  Rows take k N D
products in place of N^2 D, but each pick waits for its row, which reads all tokens: up to 3,000 tokens the
matrix is faster.  On a CPU the rows of several tokens that are likely to be next are computed at once.
Products of matrices of other sizes sum in other orders, so last bits of distances differ.  Where two
tokens are equally far to that precision, the picks may differ, and later picks with them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from castssl.superpixel_labels import is_tracing

MATRIX = 3000
"""Tokens up to which an image has a matrix of distances: 34 MiB in float32."""
AHEAD = 64
"""Rows of distances that are computed at once, at most."""


def pick(x: Tensor, valid: Tensor, k: int) -> Tensor:
    """int64 (B, k): each the token farthest from the origin and from all earlier picks, lowest index first.

    Args:
        x: float32 or float64 (B, N, D).
        valid: bool (B, N).
        k: how many, at most N.
    """
    if x.shape[1] <= MATRIX:
        return by_matrix(x, valid, k)
    plain = type(x) is Tensor and not (torch.compiler.is_compiling() or is_tracing())
    if x.device.type != "cpu" or not plain:
        return by_rows(x, valid, k)
    # An image at a time: the next pick decides what is computed, and nothing waits for a CPU.
    return torch.stack([by_blocks(*image, k) for image in zip(x, valid, strict=True)])


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


def by_blocks(x: Tensor, valid: Tensor, k: int) -> Tensor:
    """As :func:`pick` for one image on a CPU, with the rows of the tokens that are farthest now at once.

    A product of matrices reads the tokens once for many rows.  The next picks are often among these tokens:
    each one that is needs no other product.  The number of rows grows and falls with that.

    Args:
        x: float32 or float64 (N, D).
        valid: bool (N,).
        k: how many, at most N.

    Returns:
        int64 (k,).
    """
    norms = x.square().sum(1)
    to_chosen = norms.masked_fill(~valid, -1.0)
    picks: list[int] = []
    most = min(AHEAD, x.shape[1])
    size = most
    while len(picks) < k:
        ahead = to_chosen.topk(min(size, k - len(picks))).indices
        # Of equally far tokens, topk returns any; the lowest index is picked.
        ahead[-1] = torch.where((ahead == to_chosen.argmax()).any(), ahead[-1], to_chosen.argmax())
        rows = torch.addmm(norms[None], x[ahead], x.T, alpha=-2).add_(norms[ahead, None]).clamp_(min=0)
        row_of = {token: row for row, token in enumerate(ahead.tolist())}
        used = 0
        while used < len(ahead) and (token := int(to_chosen.argmax())) in row_of:
            picks.append(token)
            torch.minimum(to_chosen, rows[row_of[token]], out=to_chosen)
            to_chosen[token] = -torch.inf
            used += 1
        size = min(2 * size, most) if 2 * used > size else max(size // 2, 1)
    return torch.tensor(picks, device=x.device)
