"""Seeded faults of encoders, each with the check that must catch it and words of its message."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Visit
from castssl.encoder_config import EncoderConfig
from castssl.errors import ConfigError
from castssl.testing import encoders as room
from castssl.testing.claims import Check, Subject
from castssl.testing.samples import SampleEncoder
from castssl.types import Hierarchy, Tokens, View
from tests.contracts import mutants_dense
from tests.contracts.healthy import Pairs, Widening


class NoModule:
    dim, sizes = 32, (16, 8, 4)

    def __init__(self, config: EncoderConfig) -> None:
        self.config = replace(config, dim=self.dim, sizes=self.sizes)


class SizesAsList(Pairs):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.sizes = cast(tuple[int, ...], list(self.sizes))


class KeepsTheConfigAsGiven(Pairs):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.config = config


class Changed(Pairs):
    """Changes the last stage of what it returns."""

    def forward(self, view: View) -> Hierarchy:
        found = super().forward(view)
        return found._replace(stages=(*found.stages[:-1], self.change(found.stages[-1])))

    def change(self, stage: Tokens) -> Tokens:
        return stage


class FlatClassToken(Changed):
    def change(self, stage: Tokens) -> Tokens:
        return stage._replace(cls=stage.cls[:, 0])


class OneTokenMore(Changed):
    def change(self, stage: Tokens) -> Tokens:
        return stage._replace(x=torch.cat([stage.x, stage.x[:, :1]], 1))


class WholeMass(Changed):
    def change(self, stage: Tokens) -> Tokens:
        return stage._replace(mass=stage.mass.long())


class DeclaresOneStageLess(Pairs):
    @property
    def stages_with_cls(self) -> int:
        return len(self.sizes) - 1


class SegmentsTwoStages(Pairs):
    def segment(self, view: View, sizes: Sequence[int] | None = None) -> Hierarchy:
        found = super().segment(view, sizes)
        return found._replace(stages=found.stages[:2], assigns=found.assigns[:1])


class NoAssigns(Pairs):
    def forward(self, view: View) -> Hierarchy:
        return super().forward(view)._replace(assigns=())


class PadsWithOne(Pairs):
    """Rows of padding sum to 1."""

    def forward(self, view: View) -> Hierarchy:
        found = super().forward(view)
        empty = (found.stages[0].mass == 0)[..., None] / found.assigns[0].shape[-1]
        return found._replace(assigns=(found.assigns[0] + empty, *found.assigns[1:]))


class PixelsOfPadding(Pairs):
    """Returns the labels of another partition than that of its tokens."""

    def forward(self, view: View) -> Hierarchy:
        found = super().forward(view)
        return found._replace(segments=torch.full_like(found.segments, self.sizes[0] - 1))


class ForgetsMass(Changed):
    def change(self, stage: Tokens) -> Tokens:
        return stage._replace(mass=torch.ones_like(stage.mass))


class DropsInEvaluation(Changed):
    def change(self, stage: Tokens) -> Tokens:
        return stage._replace(x=F.dropout(stage.x, 0.5))


class Remembers(Changed):
    calls = 0

    def change(self, stage: Tokens) -> Tokens:
        self.calls += 1
        return stage._replace(cls=stage.cls + 0.1 * self.calls)


class CentersTheBatch(Changed):
    def change(self, stage: Tokens) -> Tokens:
        return stage._replace(x=stage.x - stage.x.mean(0, keepdim=True))


class RefusesItsConfig(Pairs):
    def __init__(self, config: EncoderConfig) -> None:
        if config.sizes:
            raise ConfigError("sizes cannot be set")
        super().__init__(config)


class ForgetsImageSize(Pairs):
    """A table of the image's size, which the config does not keep."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.table = nn.Parameter(torch.zeros(config.image_size, self.dim))
        self.config = replace(self.config, image_size=2 * config.image_size)

    def forward(self, view: View) -> Hierarchy:
        found = super().forward(view)
        last = found.stages[-1]
        return found._replace(stages=(*found.stages[:-1], last._replace(cls=last.cls + self.table.mean(0))))


class WiderEachTime(ForgetsImageSize):
    """Of one config it builds encoders of two shapes."""

    built = 0

    def __init__(self, config: EncoderConfig) -> None:
        type(self).built += 1
        super().__init__(replace(config, image_size=config.image_size + self.built % 2))
        self.config = replace(self.config, image_size=config.image_size)


class WeightsOutsideTheState(Changed):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.shift = [torch.randn(self.dim)]

    def change(self, stage: Tokens) -> Tokens:
        return stage._replace(cls=stage.cls + self.shift[0])


class HoldsLock(Pairs):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.lock = threading.Lock()


class KeepsItsResult(Changed):
    def change(self, stage: Tokens) -> Tokens:
        self.kept = stage.cls * 1
        return stage


class SharesWhenCopied(Pairs):
    def __deepcopy__(self, memo: dict[int, Any]) -> SharesWhenCopied:
        copied = SharesWhenCopied(self.config)
        copied.embed, copied.place, copied.cls, copied.mix, copied.read = (
            self.embed,
            self.place,
            self.cls,
            self.mix,
            self.read,
        )
        return copied


class SeededByPython(Pairs):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        with torch.no_grad():
            self.place.mul_(random.random())


class SeedsItself(Pairs):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        seed = int(hash(random.getstate()) % 1000)
        self.place.data = torch.randn(self.place.shape, generator=torch.Generator().manual_seed(seed))


class DrawsInEvaluation(Changed):
    def change(self, stage: Tokens) -> Tokens:
        torch.rand(1)
        return stage


class UnusedLayer(Pairs):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.extra = nn.Linear(self.dim, self.dim)


class RootOfNothing(Changed):
    def change(self, stage: Tokens) -> Tokens:
        return stage._replace(cls=stage.cls + (0 * stage.cls).sqrt())


class Overflows(Changed):
    """Squares in the precision of autocast: what float32 holds, float16 does not."""

    def change(self, stage: Tokens) -> Tokens:
        wide: Tensor = self.read[0](1e4 * stage.x)
        return stage._replace(x=(wide * 1e3).float() / 1e7)


class HalfMass(Changed):
    def change(self, stage: Tokens) -> Tokens:
        enabled = torch.is_autocast_enabled("cpu")
        return stage._replace(mass=stage.mass.bfloat16() if enabled else stage.mass)


class PlacesOnTheCPU(Changed):
    def change(self, stage: Tokens) -> Tokens:
        return stage._replace(x=stage.x + torch.linspace(0, 1, stage.x.shape[1])[:, None])


class Normalizes(Pairs):
    def forward(self, view: View) -> Hierarchy:
        found = super().forward(view)
        view.image.sub_(view.image.mean())
        return found


class TakesAnything(SampleEncoder):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = replace(config, sizes=self.sizes, dim=self.dim)

    def forward(self, view: View) -> Hierarchy:
        return super().forward(View(view.image.float(), view.segments))


class ShortNumbers(Widening):
    """Numbers of 32 bits, which torch does not gather by."""

    def number(self, assign: Tensor) -> Tensor:
        return assign.int()


class WholeShares(Widening):
    def number(self, assign: Tensor) -> Tensor:
        return F.one_hot(assign.clamp(min=0), 8)


class NumbersPadding(Widening):
    def number(self, assign: Tensor) -> Tensor:
        return assign.clamp(min=0)


class NumbersNone(Widening):
    def number(self, assign: Tensor) -> Tensor:
        return torch.full_like(assign, -1)


class NumbersAnother(Widening):
    def number(self, assign: Tensor) -> Tensor:
        return assign.clamp(max=0)


class OneWidth(Widening):
    @property
    def stage_dims(self) -> tuple[int, ...]:
        return cast(tuple[int, ...], self.dim)


class TooFewWidths(Widening):
    @property
    def stage_dims(self) -> tuple[int, ...]:
        return self.dims[::2]


class DeclaresOneWidth(Widening):
    @property
    def stage_dims(self) -> tuple[int, ...]:
        return (self.dim,) * 3


class WidensClassTokens(Widening):
    """Class tokens of another width than that of their stage's tokens."""

    def visit_blocks(self, view: View, visit: Visit) -> Hierarchy:
        found = super().visit_blocks(view, visit)
        stages = [stage._replace(cls=F.pad(stage.cls, (0, 1))) for stage in found.stages[:-1]]
        return found._replace(stages=(*stages, found.stages[-1]))


class NarrowsTheLast(Changed):
    def change(self, stage: Tokens) -> Tokens:
        return stage._replace(cls=stage.cls[..., 1:])


class NoVisits(Widening):
    @property
    def visits(self) -> tuple[int, ...]:
        return (0,) * 3


class DeclaresOneVisit(Widening):
    @property
    def visits(self) -> tuple[int, ...]:
        return (1,) * 3


class ForgetsTheClassToken(Widening):
    """What forward does last, visits miss."""

    def forward(self, view: View) -> Hierarchy:
        found = super().forward(view)
        last = found.stages[-1]
        return found._replace(stages=(*found.stages[:-1], last._replace(cls=last.cls + 1)))


class Between(Widening):
    """Hands on other tokens to visits, or others than they return."""

    def visit_blocks(self, view: View, visit: Visit) -> Hierarchy:
        return super().visit_blocks(view, partial(self.between, visit))

    def between(self, visit: Visit, stage: int, tokens: Tokens) -> Tensor:
        return visit(stage, tokens)


class VisitsBefore(Between):
    def between(self, visit: Visit, stage: int, tokens: Tokens) -> Tensor:
        return visit(stage, tokens._replace(x=tokens.x - 1)) + 1


class VisitsWithoutMass(Between):
    def between(self, visit: Visit, stage: int, tokens: Tokens) -> Tensor:
        return visit(stage, tokens._replace(mass=torch.ones_like(tokens.mass)))


class OnlyDeclares(Pairs):
    takes_updates = True


class TakesInSilence(Widening):
    takes_updates = False


class HalvesUpdates(Between):
    def between(self, visit: Visit, stage: int, tokens: Tokens) -> Tensor:
        return (visit(stage, tokens) + tokens.x) / 2


class StaysInTheStage(Widening):
    """All stages but the visited one are those of the forward pass."""

    def visit_blocks(self, view: View, visit: Visit) -> Hierarchy:
        found, plain = (
            super().visit_blocks(view, visit),
            super().visit_blocks(view, lambda _, tokens: tokens.x),
        )
        return found._replace(stages=(found.stages[0], *plain.stages[1:]))


class ReachesBack(Widening):
    """The first stage has the mean of the second's class token added."""

    def visit_blocks(self, view: View, visit: Visit) -> Hierarchy:
        found = super().visit_blocks(view, visit)
        first = found.stages[0]
        moved = first._replace(mass=first.mass + found.stages[1].cls.mean())
        return found._replace(stages=(moved, *found.stages[1:]))


MUTANTS: list[tuple[Check, Subject, str]] = [
    (room.check_conforms, NoModule, "inherit from castssl.contracts.Encoder"),
    (room.check_conforms, SizesAsList, "set sizes to a tuple"),
    (room.check_conforms, KeepsTheConfigAsGiven, "dataclasses.replace"),
    (room.check_stages, FlatClassToken, r"stages\[2\]\.cls has shape \(3, 32\)"),
    (room.check_stages, OneTokenMore, r"stages\[2\]\.x has shape \(3, 5, 32\), not \(3, 4, 32\)"),
    (room.check_stages, WholeMass, "mass is torch.int64"),
    (room.check_stages, DeclaresOneStageLess, "3 stages, but stages_with_cls declares 2"),
    (room.check_stages, SegmentsTwoStages, "all stages that sizes declares, 3"),
    (room.check_stages, NoAssigns, "3 stages need 2 assigns, got 0"),
    (room.check_stages, ShortNumbers, r"assigns\[0\] is torch.int32, not float32 or int64"),
    (room.check_stages, WholeShares, r"assigns\[0\] of torch.int64 has shape \(3, 16, 8\), not \(3, 16\)"),
    (room.check_stage_dims, OneWidth, "a whole number for each of 3 stages, got 32"),
    (room.check_stage_dims, TooFewWidths, r"each of 3 stages, got \(8, 32\)"),
    (room.check_stage_dims, DeclaresOneWidth, r"stages\[0\].x has width 8, but stage_dims declares 32"),
    (room.check_stage_dims, WidensClassTokens, r"stages\[0\].cls has width 9, but stage_dims declares 8"),
    (room.check_stage_dims, NarrowsTheLast, r"stages\[2\].cls has width 31, but dim declares 32"),
    (room.check_padding, NumbersPadding, "tokens of mass 0 have -1"),
    (room.check_padding, NumbersNone, "tokens with mass go to one of the 8 of the next stage"),
    (room.check_padding, NumbersAnother, r"stages\[1\].mass is not the mass"),
    (room.check_visits, NoVisits, r"1 or more, got \(0, 0, 0\)"),
    (
        room.check_visits,
        DeclaresOneVisit,
        r"in the order \[0, 0, 1, 1, 2, 2\], but visits declares \[0, 1, 2\]",
    ),
    (room.check_visits, ForgetsTheClassToken, r"another stages\[2\].cls: do in visit_blocks"),
    (room.check_visits, VisitsBefore, "the last visit of stage 0 sees another x"),
    (room.check_visits, VisitsWithoutMass, "the last visit of stage 0 sees another mass"),
    (room.check_updates, OnlyDeclares, r"visit 0, of stage 0, .* set takes_updates = False"),
    (room.check_updates, HalvesUpdates, r"visit 1, of stage 0, .* not the x of the stage"),
    (room.check_updates, StaysInTheStage, r"visit 0, of stage 0, .* stages\[1\].x is as before"),
    (room.check_updates, TakesInSilence, "set takes_updates = True"),
    (room.check_updates, ReachesBack, r"visit 2, of stage 1, .* which came before, changes"),
    (room.check_padding, PadsWithOne, r"multiply by \(mass > 0\)"),
    (room.check_padding, PixelsOfPadding, "has pixels, but its token has mass 0"),
    (room.check_padding, ForgetsMass, r"stages\[2\].mass is not the mass"),
    (room.check_is_deterministic, DropsInEvaluation, "another stages.2..x: switch dropout off"),
    (room.check_is_deterministic, Remembers, "another stages.2..cls.*keep no state"),
    (room.check_images_are_independent, CentersTheBatch, "no statistic may run over the batch"),
    (room.check_config_rebuilds, RefusesItsConfig, "refuses its encoder's config"),
    (room.check_config_rebuilds, ForgetsImageSize, "keep what the factory reads in it"),
    (room.check_config_rebuilds, WiderEachTime, "another state: table"),
    (room.check_config_rebuilds, WeightsOutsideTheState, "keep weights in the state"),
    (room.check_deep_copies, HoldsLock, "deepcopy fails"),
    (room.check_deep_copies, KeepsItsResult, "store no result on self"),
    (room.check_deep_copies, SharesWhenCopied, "a deep copy shares"),
    (room.check_leaves_random_state_alone, SeededByPython, "building draws from Python"),
    (room.check_leaves_random_state_alone, SeedsItself, "the same torch seed gives another place"),
    (room.check_leaves_random_state_alone, DrawsInEvaluation, "evaluation moves the generator of torch"),
    (room.check_gradients, UnusedLayer, "no gradient reaches extra.weight"),
    (room.check_gradients, RootOfNothing, "is not finite"),
    (room.check_half_precision, Overflows, "float16: stages.2..x is not finite"),
    (room.check_half_precision, HalfMass, "mass is torch.bfloat16"),
    (room.check_runs_on_a_device, PlacesOnTheCPU, "make tensors with device="),
    (room.check_leaves_input_alone, Normalizes, "view.image was changed in place"),
    *mutants_dense.MUTANTS,
    (room.check_refuses_what_is_no_view, TakesAnything, "check_image"),
]
