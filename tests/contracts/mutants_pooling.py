"""Seeded faults of poolings, each with the check that must catch it and words of its message."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Need
from castssl.pooling.arithmetic import masked_mean
from castssl.testing import pooling as room
from castssl.testing.claims import Check, Subject
from castssl.types import Pooled, Tokens
from tests.contracts.healthy import Heaviest


class NeedsASet(Heaviest):
    needs = cast("frozenset[Need]", {"keys"})


class NoModule:
    needs: frozenset[Need] = frozenset()

    def __init__(self, dim: int) -> None:
        pass


class WideAssign(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        out = super().forward(tokens, size)
        return out._replace(assign=out.assign.double())


class OneRowMore(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        out = super().forward(tokens, size)
        return out._replace(x=torch.cat([out.x, out.cls], 1))


class SumsOverTokens(Heaviest):
    """Columns that sum to 1 instead of rows."""

    def assign(self, tokens: Tokens, size: int) -> Tensor:
        return super().assign(tokens, size).transpose(1, 2).softmax(-1).transpose(1, 2)


class DropsAssignment(Heaviest):
    def assign(self, tokens: Tokens, size: int) -> Tensor:
        return F.dropout(super().assign(tokens, size), 0.5, self.training)


class ClampsSize(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        return super().forward(tokens, min(max(size, 1), tokens.x.shape[1]))


class MeanWithPadding(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        out = super().forward(tokens, size)
        return out._replace(x=out.x + tokens.x.mean(1, keepdim=True))


class GradientToPadding(Heaviest):
    """The value is 0, its gradient is not."""

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        total = tokens.x.sum(1, keepdim=True)
        out = super().forward(tokens, size)
        return out._replace(x=out.x + total - total.detach())


class CentresOverBatch(Heaviest):
    def assign(self, tokens: Tokens, size: int) -> Tensor:
        return super().assign(tokens._replace(x=tokens.x - tokens.x[tokens.mass > 0].mean(0)), size)


class OrdersByBatchSize(Heaviest):
    """A plain order of the heaviest, but in large batches the last of equal ones come first."""

    def assign(self, tokens: Tokens, size: int) -> Tensor:
        if len(tokens.mass) < 4:
            return super().assign(tokens, size)
        back = tokens._replace(x=tokens.x.flip(1), mass=tokens.mass.flip(1))
        return super().assign(back, size).flip(1)


class TakesAnyOfEqual(Heaviest):
    def heaviest(self, mass: Tensor, size: int) -> Tensor:
        return mass.topk(size).indices


class SortsUnstably(Heaviest):
    def heaviest(self, mass: Tensor, size: int) -> Tensor:
        return mass.argsort(dim=1, descending=True)[:, :size]


class DividesByEmptyClusters(Heaviest):
    """Hard clusters; of two identical centroids one stays empty."""

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        soft = self.assign(tokens, size)
        hard = F.one_hot(soft.argmax(-1), size).float() * (tokens.mass > 0)[..., None]
        assign = hard + soft - soft.detach()
        x = hard.transpose(1, 2) @ tokens.x.float() / hard.sum(1)[..., None]
        return Pooled(x.to(tokens.x.dtype), tokens.cls, assign)


class Whitens(Heaviest):
    """Divides by a deviation that is 0 when all tokens are alike."""

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        valid = tokens.mass > 0
        away = (tokens.x - masked_mean(tokens.x, valid)) * valid[..., None]
        return super().forward(tokens._replace(x=away / away.square().sum(1, keepdim=True).sqrt()), size)


class RootOfZero(Heaviest):
    """Its value is finite where its gradient is not."""

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        valid = tokens.mass > 0
        away = (tokens.x - masked_mean(tokens.x, valid)) * valid[..., None]
        out = super().forward(tokens, size)
        return out._replace(x=out.x + (away.sum(1, keepdim=True).square() * 0).sqrt())


class CountsOnEnoughTokens(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        out = super().forward(tokens, size)
        return out._replace(x=out.x / tokens.mass.topk(size).values[:, -1:, None])


class Counts(Heaviest):
    """Proportional attention: the logarithm of how many tokens a cluster has."""

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        out = super().forward(tokens, size)
        return out._replace(bias=self.bias(out.assign, tokens))

    def bias(self, assign: Tensor, tokens: Tokens) -> Tensor:
        return assign.sum(1).clamp(min=1).log()


class LogOfNothing(Counts):
    def bias(self, assign: Tensor, tokens: Tokens) -> Tensor:
        return assign.sum(1).log()


class NarrowBias(Counts):
    def bias(self, assign: Tensor, tokens: Tokens) -> Tensor:
        return super().bias(assign, tokens).to(self.space(tokens.x).dtype)


class HandsOnBias(Counts):
    """The bias of the tokens before, of which there are more."""

    def bias(self, assign: Tensor, tokens: Tokens) -> Tensor:
        return super().bias(assign, tokens) if tokens.bias is None else tokens.bias


class NumpyNoise(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        out = super().forward(tokens, size)
        return out._replace(x=out.x + np.random.rand())  # noqa: NPY002


class OwnGenerator(Heaviest):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.draw = torch.Generator().manual_seed(0)

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        out = super().forward(tokens, size)
        return out._replace(x=out.x + torch.rand(1, generator=self.draw))


class IdleParameter(Heaviest):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.idle = nn.Linear(dim, dim)


class Detaches(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        return super().forward(tokens._replace(x=tokens.x.detach()), size)


class ClearsPadding(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        tokens.x[tokens.mass <= 0] = 0
        return super().forward(tokens, size)


class KeepsResult(Heaviest):
    last: Tensor | None = None

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        out = super().forward(tokens, size)
        self.last = out.x
        return out


class CopiesToItself(Heaviest):
    def __deepcopy__(self, memo: dict[int, Any]) -> CopiesToItself:
        return self


class StateOutside(Heaviest):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale = torch.rand(dim)

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        out = super().forward(tokens, size)
        return out._replace(x=out.x * self.scale)


class NarrowAssign(Heaviest):
    def assign(self, tokens: Tokens, size: int) -> Tensor:
        return super().assign(tokens, size).to(self.space(tokens.x).dtype)


class WidensTokens(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        out = super().forward(tokens, size)
        return out._replace(x=out.x.float())


class ReadsBack(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        if bool((tokens.mass <= 0).any()):
            return super().forward(tokens, size)
        return super().forward(tokens, size)


class MakesTensorsOnTheCPU(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        rank = torch.arange(tokens.x.shape[1])
        return super().forward(tokens._replace(mass=tokens.mass + 0 * rank), size)


class BreaksGraph(Heaviest):
    def forward(self, tokens: Tokens, size: int) -> Pooled:
        torch._dynamo.graph_break()
        return super().forward(tokens, size)


MUTANTS: list[tuple[Check, Subject, str]] = [
    (room.check_conforms, NeedsASet, "set needs"),
    (room.check_conforms, NoModule, "inherit from castssl.contracts.Pooling"),
    (room.check_shapes_and_dtypes, WideAssign, "assign in float32"),
    (room.check_shapes_and_dtypes, OneRowMore, "x has shape"),
    (room.check_conserves_mass, SumsOverTokens, "mass is lost"),
    (room.check_conserves_mass, DropsAssignment, "mass is lost"),
    (room.check_refuses_impossible_sizes, ClampsSize, "given size 0 of 24 tokens, raise ValueError"),
    (room.check_padding_changes_nothing, MeanWithPadding, "must not change x"),
    (room.check_padding_gets_no_gradient, GradientToPadding, "get gradient"),
    (room.check_images_are_independent, CentresOverBatch, "another image of the batch changes"),
    (room.check_images_are_independent, OrdersByBatchSize, "in a batch of 1 and of 7"),
    (room.check_ties_are_settled, TakesAnyOfEqual, "equal values in another order give another x"),
    (room.check_ties_are_settled, SortsUnstably, "equal values in another order give another x"),
    (room.check_few_distinct_tokens, DividesByEmptyClusters, "3 distinct tokens: x is not finite"),
    (room.check_blank_image, Whitens, "identical tokens: x is not finite"),
    (room.check_blank_image, RootOfZero, "gradient that is not finite"),
    (room.check_few_valid_tokens, CountsOnEnoughTokens, "x is not finite"),
    (room.check_few_valid_tokens, LogOfNothing, "bias is not finite"),
    (room.check_pools_again, HandsOnBias, "pooled again: bias has shape"),
    (room.check_randomness_is_torchs, NumpyNoise, "another x"),
    (room.check_randomness_is_torchs, OwnGenerator, "another x"),
    (room.check_every_parameter_gets_gradient, IdleParameter, "idle.weight, idle.bias"),
    (room.check_tokens_get_gradient, Detaches, "do not detach"),
    (room.check_leaves_input_alone, ClearsPadding, "tokens.x was changed in place"),
    (room.check_deep_copies, KeepsResult, "store no result on self"),
    (room.check_deep_copies, CopiesToItself, "shares space.weight"),
    (room.check_state_round_trips, StateOutside, "parameters or buffers"),
    (room.check_bfloat16, NarrowBias, "bias in float32, got torch.bfloat16"),
    (room.check_bfloat16, NarrowAssign, "assign in float32, got torch.bfloat16"),
    (room.check_bfloat16, WidensTokens, "x in the input's dtype"),
    (room.check_reads_nothing_back, ReadsBack, "on tensors without data"),
    (room.check_reads_nothing_back, MakesTensorsOnTheCPU, "make tensors with device="),
    (room.check_compiles, BreaksGraph, "fullgraph=True"),
]
