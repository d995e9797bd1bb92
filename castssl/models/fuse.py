"""The segmentation variant of CAST: all stages unpooled to the finest tokens, and fused.

CAST, section 3.3 and Eq. 4.  The paper fuses with one linear layer; the released code puts batch norm and
dropout before it, and so does this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from castssl import distributed
from castssl.contracts import Visit
from castssl.models.cast import CAST
from castssl.models.transitions import unpool
from castssl.types import DenseTokens, Hierarchy, Tokens, View


@runtime_checkable
class Assigns(Protocol):
    """A pooling whose assignment can be computed by itself, as that of the published models."""

    def assign(self, tokens: Tokens, size: int) -> tuple[Tensor, Tensor]:
        """float32 (B, N, K), and the centroids' token indices int64 (B, K)."""
        ...


class Fusion(nn.Module):
    """Batch norm, dropout and a linear layer over concatenated stages.

    ``norm`` holds the batch norm's parameters and running statistics; :func:`masked_batch_norm` applies it.

    Args:
        dim: token width D.
        stages: how many stages are concatenated.
    """

    def __init__(self, dim: int, stages: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim * stages)
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(dim * stages, dim)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Fuse the rows.

        Args:
            x: float (B, N, stages * D).
            valid: bool (B, N), the rows over which the batch norm's statistics run; None for all of them,
                padding included, as in the published models.

        Returns:
            float (B, N, D).
        """
        out: Tensor = self.linear(self.dropout(token_norm(x, valid, self.norm)))
        return out


def token_norm(x: Tensor, weight: Tensor | None, norm: nn.BatchNorm1d) -> Tensor:
    """Batch norm of (B, N, D) over rows that count so often; over all alike in evaluation or with None."""
    if norm.training and weight is not None:
        return masked_batch_norm(x, weight, norm)
    normed: Tensor = norm(x.transpose(1, 2)).transpose(1, 2)
    return normed


def masked_batch_norm(x: Tensor, valid: Tensor, norm: nn.BatchNorm1d | nn.SyncBatchNorm) -> Tensor:
    """Batch norm in training mode whose statistics, also the running ones, are those of the valid rows.

    With whole numbers in place of ``valid``, a row counts as if it were there so many times.  Where ``norm``
    was converted to ``SyncBatchNorm``, the statistics are those of its processes' valid rows.

    Args:
        x: float (B, N, C); the rows that are not valid must be finite, too.
        valid: bool (B, N), or float (B, N) whole numbers from 0.
        norm: the parameters and the running statistics, which are updated.

    Returns:
        float (B, N, C) in the dtype of ``x``: all rows, normed.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    rows, weight = x.to(wide), valid[..., None].to(wide)
    # One number more in the first sum counts the rows.
    sums = torch.cat([(rows * weight).sum((0, 1)), weight.sum().view(1)])
    sums = _over_processes(sums, norm)
    count = sums[-1].clamp(min=1)
    mean = sums[:-1] / count
    centered = rows - mean
    variance = _over_processes((centered.square() * weight).sum((0, 1)), norm) / count
    _update(norm, mean.detach(), (variance * count / (count - 1).clamp(min=1)).detach())
    scale = (variance + norm.eps).rsqrt() * norm.weight
    return (centered * scale + norm.bias).to(x.dtype)


def _over_processes(sums: Tensor, norm: nn.BatchNorm1d | nn.SyncBatchNorm) -> Tensor:
    """The sums over the processes of a ``SyncBatchNorm``, with gradient; as they are for another norm."""
    if not isinstance(norm, nn.SyncBatchNorm) or distributed.world() == 1:
        return sums
    group = norm.process_group or dist.group.WORLD
    total: Tensor = all_reduce(sums, group=group)
    return total


@torch.no_grad()
def _update(norm: nn.BatchNorm1d | nn.SyncBatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics towards those of a batch."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    momentum = 0.1 if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)
    norm.num_batches_tracked.add_(1)


class FusedCAST(CAST):
    """A CAST whose class token is the mean of its fused segment tokens (pretraining on COCO).

    Takes :class:`CAST`'s arguments.  All poolings train, and no final norm is applied.
    """

    def __init__(
        self, depths: Sequence[int], sizes: Sequence[int], make_pooling: Any, **options: Any
    ) -> None:
        super().__init__(depths, sizes, make_pooling, final_norm=False, **options)
        self.fusion = Fusion(self.dim, self.stages_with_cls)
        nn.init.xavier_uniform_(self.fusion.linear.weight)
        nn.init.zeros_(self.fusion.linear.bias)
        self.poolings.requires_grad_(True)
        self.dense_dim = self.dim

    def dense(self, view: View, sizes: Sequence[int] | None = None) -> DenseTokens:
        """The fused segment tokens."""
        hierarchy, fused = self.fuse(view, sizes)
        return self.densely(view, hierarchy, fused[:, 1:])

    def forward(self, view: View, sizes: Sequence[int] | None = None) -> Hierarchy:
        """The stages with a class token; the last one's class token is the mean of the fused tokens."""
        return self.served(*self.fuse(view, sizes))

    def visit_blocks(self, view: View, visit: Visit) -> Hierarchy:
        """As :meth:`forward`; the class tokens that are visited are those of the blocks, not fused."""
        return self.served(*self.fuse(view, visit=visit))

    def served(self, hierarchy: Hierarchy, fused: Tensor) -> Hierarchy:
        """The stages with a class token of what :meth:`fuse` returned."""
        stages = hierarchy.stages[: self.stages_with_cls]
        stages = (*stages[:-1], stages[-1]._replace(cls=self.mean(hierarchy, fused)))
        return hierarchy._replace(stages=stages, assigns=hierarchy.assigns[: self.stages_with_cls - 1])

    def mean(self, hierarchy: Hierarchy, fused: Tensor) -> Tensor:
        """The mean of the fused segment tokens that :meth:`fuse` returned: float (B, 1, D)."""
        valid = hierarchy.stages[0].mass > 0
        if self.padding == "reference":
            valid = torch.ones_like(valid)
        weight = valid[..., None].to(fused.dtype)
        return (fused[:, 1:] * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)

    def fuse(
        self, view: View, sizes: Sequence[int] | None = None, *, visit: Visit | None = None
    ) -> tuple[Hierarchy, Tensor]:
        """All stages, and the fused class and segment tokens, float (B, 1 + N, D).

        ``visit`` is called after each block, see :meth:`visit_blocks`.
        The class tokens that are fused are those after each stage's pooling, as in the released code.
        """
        hierarchy, pooled = self.trace(view, sizes, stages=len(self.sizes), visit=visit)
        served = self.stages_with_cls
        after = [p.cls for p in pooled] + [s.cls for s in hierarchy.stages[len(pooled) : served]]
        if len(pooled) == served and torch.is_grad_enabled():
            # DDP waits for a gradient of all that is trained.  No loss reads the tokens of the last pooling.
            after[-1] = after[-1] + 0 * pooled[-1].x[:, :1].to(after[-1].dtype)
        parents = self._parents(hierarchy, sizes)
        rows = [unpool(hierarchy.stages[stage].x, at) for stage, at in enumerate(parents)]
        both = torch.cat([torch.cat(after[:served], -1), torch.cat(rows, -1)], 1)
        fused: Tensor = self.fusion(both, self._valid(hierarchy))
        return hierarchy, fused

    def _valid(self, hierarchy: Hierarchy) -> Tensor | None:
        """Which rows of the fused tokens are not padding: bool (B, 1 + N); None where padding takes part.

        The class token of an image without any token does not count.
        """
        if self.padding == "reference":
            return None
        valid = hierarchy.stages[0].mass > 0
        return torch.cat([valid.any(1, keepdim=True), valid], 1)

    def _parents(self, hierarchy: Hierarchy, sizes: Sequence[int] | None) -> list[Tensor]:
        """For each stage with a class token, the token that each finest token ended up in: int64 (B, N)."""
        parents = [hierarchy.parents(stage) for stage in range(self.stages_with_cls)]
        pooling = self.poolings[0] if len(self.poolings) else None
        if self.padding == "mask" or not isinstance(pooling, Assigns):
            return parents
        # In the published models an empty token, too, has a parent; ``assign`` may not tell it.
        count = (self.sizes if sizes is None else sizes)[1]
        with torch.no_grad():
            assign, _ = pooling.assign(hierarchy.stages[0], count)
        first = assign.argmax(-1)
        later = hierarchy._replace(stages=hierarchy.stages[1:], assigns=hierarchy.assigns[1:])
        coarser = range(self.stages_with_cls - 1)
        return [parents[0], *(later.parents(stage).gather(1, first) for stage in coarser)]
