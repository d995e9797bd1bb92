"""The segmentation variant of CAST: all stages unpooled to the finest tokens, and fused.

CAST, section 3.3 and Eq. 4.  The paper fuses with one linear layer; the released code puts batch norm and
dropout before it, and so does this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from castssl.models.cast import CAST
from castssl.types import Hierarchy, View


class Fusion(nn.Module):
    """Batch norm, dropout and a linear layer over concatenated stages.

    Args:
        dim: token width D.
        stages: how many stages are concatenated.
    """

    def __init__(self, dim: int, stages: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim * stages)
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(dim * stages, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, stages * D) -> (B, N, D); the statistics run over images and tokens, padding included."""
        normed = self.norm(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.linear(self.dropout(normed))
        return out


class FusedCAST(CAST):
    """A CAST whose class token is the mean of its fused segment tokens (pretraining on COCO).

    Takes :class:`CAST`'s arguments.  All poolings train, and no final norm is applied.
    """

    def __init__(
        self, depths: Sequence[int], sizes: Sequence[int], make_pooling: Any, **options: Any
    ) -> None:
        super().__init__(depths, sizes, make_pooling, final_norm=False, **options)
        self.fusion = Fusion(self.dim, self.served)
        nn.init.xavier_uniform_(self.fusion.linear.weight)
        nn.init.zeros_(self.fusion.linear.bias)
        self.poolings.requires_grad_(True)

    def forward(self, view: View, sizes: Sequence[int] | None = None) -> Hierarchy:
        """The served stages; the last one's class token is the mean of the fused tokens."""
        hierarchy, fused = self.fuse(view, sizes)
        stages = hierarchy.stages[: self.served]
        stages = (*stages[:-1], stages[-1]._replace(cls=self.mean(hierarchy, fused)))
        return hierarchy._replace(stages=stages, assigns=hierarchy.assigns[: self.served - 1])

    def mean(self, hierarchy: Hierarchy, fused: Tensor) -> Tensor:
        """The mean of the fused segment tokens that :meth:`fuse` returned: float (B, 1, D)."""
        valid = hierarchy.stages[0].mass > 0
        if self.padding == "reference":
            valid = torch.ones_like(valid)
        weight = valid[..., None].to(fused.dtype)
        return (fused[:, 1:] * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)

    def fuse(self, view: View, sizes: Sequence[int] | None = None) -> tuple[Hierarchy, Tensor]:
        """All stages, and the fused class and segment tokens, float (B, 1 + N, D).

        The class tokens that are fused are those after each stage's pooling, as in the released code.
        """
        hierarchy, pooled = self.trace(view, sizes, stages=len(self.sizes))
        after = [p.cls for p in pooled] + [s.cls for s in hierarchy.stages[len(pooled) : self.served]]
        parents = self._parents(hierarchy, sizes)
        rows = [unpool(hierarchy.stages[stage].x, at) for stage, at in enumerate(parents)]
        both = torch.cat([torch.cat(after[: self.served], -1), torch.cat(rows, -1)], 1)
        fused: Tensor = self.fusion(both)
        return hierarchy, fused

    def _parents(self, hierarchy: Hierarchy, sizes: Sequence[int] | None) -> list[Tensor]:
        """For each served stage, the token that each finest token ended up in: int64 (B, N)."""
        parents = [hierarchy.parents(stage) for stage in range(self.served)]
        if self.padding == "mask" or isinstance(self.poolings[0], nn.Identity):
            return parents
        # In the published models an empty token, too, has a parent; ``assign`` may not tell it.
        count = (self.sizes if sizes is None else sizes)[1]
        with torch.no_grad():
            assign, _ = cast(Any, self.poolings[0]).assign(hierarchy.stages[0], count)
        first = assign.argmax(-1)
        later = hierarchy._replace(stages=hierarchy.stages[1:], assigns=hierarchy.assigns[1:])
        return [parents[0], *(later.parents(stage).gather(1, first) for stage in range(self.served - 1))]


def unpool(x: Tensor, index: Tensor) -> Tensor:
    """The tokens of a stage at the finest tokens (Eq. 4): (B, K, D), int64 (B, N) -> (B, N, D)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
