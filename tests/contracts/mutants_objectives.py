"""Seeded faults of objectives, each with the check that must catch it and words of its message."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder, Model, Target
from castssl.labels import LabelTree
from castssl.testing import objectives as room
from castssl.testing.claims import Check, Subject
from castssl.types import Batch, LabelAttention, Outcome, View
from tests.contracts.healthy import Attends, Classifier, PixelClassifier, Tagger


class CopiesEncoder(Classifier):
    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__(deepcopy(encoder), labels)


class NoObjective(nn.Module):
    views, target = 1, "path"

    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__()
        self.encoder = encoder


class NarrowTexts(Classifier):
    text_dim = cast(int, 8.0)


class TakesNoText(Classifier):
    """Reads texts, and takes a batch without any, or of any width."""

    text_dim = 8


class MeanOfNoTexts(Classifier):
    text_dim = 8

    def forward(self, batch: Batch) -> Outcome:
        assert batch.text is not None
        loss, logs = super().forward(batch)
        known = batch.text.any(1)
        return Outcome(loss + (loss * known).sum() / known.sum(), logs)


class NoModel(Classifier):
    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__(encoder, labels)
        del self.model


class HeadBesideModel(Classifier):
    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__(encoder, labels)
        self.beside = nn.Linear(2, 2)


class NoBase(Classifier):
    def branches(self) -> Mapping[str, Model]:
        return {"ema": self.model}


class BranchOfEncoder(Classifier):
    def branches(self) -> Mapping[str, Model]:
        return {"base": self.model, "ema": cast(Model, self.encoder)}


class UnknownTarget(Classifier):
    target = cast(Target, "paths")


class LogsGraph(Classifier):
    def forward(self, batch: Batch) -> Outcome:
        loss = super().forward(batch).loss
        return Outcome(loss, {"loss": loss})


class LossPerImage(Classifier):
    def forward(self, batch: Batch) -> Outcome:
        loss, logs = super().forward(batch)
        return Outcome(loss.expand(len(batch.target)), logs)


class DetachedLoss(Classifier):
    def forward(self, batch: Batch) -> Outcome:
        loss, logs = super().forward(batch)
        return Outcome(loss.detach(), logs)


class IdleHead(Classifier):
    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__(encoder, labels)
        self.idle = nn.Linear(2, 2)


class GradientToAverage(Classifier):
    """The average's own hook writes the gradient that the loss does not."""

    def forward(self, batch: Batch) -> Outcome:
        for slow in self.average.parameters():
            slow.grad = torch.ones_like(slow)
        return super().forward(batch)


class ShufflesLabels(Classifier):
    def forward(self, batch: Batch) -> Outcome:
        order = torch.randint(int(batch.target.max()) + 1, batch.target.shape)
        return super().forward(batch._replace(target=order))


class TakesFirstView(Classifier):
    def validate(self, batch: Batch) -> None:
        super().validate(batch._replace(views=batch.views[:1]))


class TakesAnyDtype(Classifier):
    def forward(self, batch: Batch) -> Outcome:
        return super().forward(batch._replace(target=batch.target.long()))


class TakesAnyWidth(Classifier):
    def forward(self, batch: Batch) -> Outcome:
        return super().forward(batch._replace(target=batch.target[:, : self.width]))


class RaisesOnNan(Classifier):
    def forward(self, batch: Batch) -> Outcome:
        outcome = super().forward(batch)
        if not outcome.loss.isfinite():
            raise RuntimeError("nan")
        return outcome


class HidesNan(Classifier):
    def forward(self, batch: Batch) -> Outcome:
        loss, logs = super().forward(batch)
        return Outcome(loss.nan_to_num(), logs)


class ProgressOutside(Classifier):
    at = 0.0

    def forward(self, batch: Batch) -> Outcome:
        loss, logs = super().forward(batch)
        return Outcome(loss * (1 + self.at), logs)

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        self.at = progress


class ShrinksWeights(Classifier):
    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        with torch.no_grad():
            self.model.head.weight.mul_(0.9)


class NarrowLoss(Classifier):
    def forward(self, batch: Batch) -> Outcome:
        loss, logs = super().forward(batch)
        return Outcome(loss.to(self.model.head(self.read(batch.views[0])).dtype), logs)


class WeightsOnTheCPU(Classifier):
    def forward(self, batch: Batch) -> Outcome:
        loss, logs = super().forward(batch)
        known = (batch.target[:, -1] >= 0) * torch.ones(len(batch.target))
        return Outcome(loss * known.mean(), logs)


class AverageOnTheCPU(Classifier):
    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__(encoder, labels)
        self.mean = torch.zeros_like(self.model.head.weight.detach())

    def after_step(self, progress: float) -> None:
        self.mean.lerp_(self.model.head.weight.detach(), 1 - progress)


class PredictsNothing(Classifier):
    def predict(self, view: View) -> Mapping[str, Tensor]:
        return {}


class PredictsByBatch(Classifier):
    def predict(self, view: View) -> Mapping[str, Tensor]:
        logits = super().predict(view)["finest"]
        return {"finest": logits - logits.mean(0)}


class LocalCenter(Classifier):
    """A center that follows this rank's images only."""

    center: Tensor

    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__(encoder, labels)
        self.register_buffer("center", torch.zeros(encoder.dim))

    def read(self, view: View) -> Tensor:
        cls = super().read(view)
        if self.training:
            self.center.lerp_(cls.detach().float().mean(0), 0.1)
        return cls


class AverageByRank(Classifier):
    """An average that moves by what only this rank has seen."""

    seen = 0.0

    def forward(self, batch: Batch) -> Outcome:
        self.seen = float(F.relu(batch.views[0].image).mean())
        return super().forward(batch)

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            for slow in self.average.parameters():
                slow.add_(self.seen)


class TakesAnyMap(PixelClassifier):
    def forward(self, batch: Batch) -> Outcome:
        return super().forward(batch._replace(target=batch.target.long()))


class TakesPaths(PixelClassifier):
    def forward(self, batch: Batch) -> Outcome:
        if batch.target.dim() == 2:
            batch = batch._replace(target=batch.target[..., None].expand(-1, *batch.views[0].image.shape[2:]))
        return super().forward(batch)


class UnknownIsFirstClass(PixelClassifier):
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().loss(logits, target.clamp(min=0))


class PullsWithoutLabels(PixelClassifier):
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().loss(logits, target) + logits.float().mean() - logits.detach().float().mean()


class PredictsImages(PixelClassifier):
    def predict(self, view: View) -> Mapping[str, Tensor]:
        logits = super().predict(view)["pixels"]
        return {"pixels": logits if self.training else logits.mean((2, 3))}


class UnknownIsAbsent(Tagger):
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().loss(logits, target.clamp(min=0))


class MeanOfNothing(Tagger):
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().loss(logits, target) * (target >= 0).sum() / (target >= 0).sum()


class TakesAnyTags(Tagger):
    def forward(self, batch: Batch) -> Outcome:
        return super().forward(batch._replace(target=batch.target.float()))


class ReadsEarlyStage(Classifier):
    """Takes all stages to be as wide as the last."""

    def read(self, view: View) -> Tensor:
        return self.model.encoder(view).stages[0].cls[:, 0]


class PathsAttend(Classifier):
    def label_attention(self, view: View) -> LabelAttention:
        stages = (hierarchy := self.encoder(view)).stages
        return LabelAttention(hierarchy, tuple(stage.mass[:, None] / stage.mass.sum() for stage in stages))


class AttendsAlone(Attends):
    """Nothing is attended to in batches of several images."""

    def label_attention(self, view: View) -> LabelAttention | None:
        return super().label_attention(view) if len(view.image) == 1 else None


class BareWeights(Attends):
    def label_attention(self, view: View) -> LabelAttention:
        return cast(LabelAttention, tuple(self.attend(view)))


class OneStage(Attends):
    def attend(self, view: View) -> LabelAttention:
        found = super().attend(view)
        return found._replace(weights=found.weights[-1:])


class TokensFirst(Attends):
    def weigh(self, logits: Tensor, mass: Tensor) -> Tensor:
        return super().weigh(logits, mass).transpose(1, 2)


class HalfWeights(Attends):
    def weigh(self, logits: Tensor, mass: Tensor) -> Tensor:
        return super().weigh(logits, mass).bfloat16()


class AttendsToPadding(Attends):
    def weigh(self, logits: Tensor, mass: Tensor) -> Tensor:
        return logits.softmax(1).transpose(1, 2)


class HidesPaddingAfterwards(Attends):
    def weigh(self, logits: Tensor, mass: Tensor) -> Tensor:
        return logits.softmax(1).transpose(1, 2) * (mass > 0)[:, None]


class BothWays(Attends):
    def weigh(self, logits: Tensor, mass: Tensor) -> Tensor:
        weights = super().weigh(logits, mass)
        return weights + F.pad(torch.tensor([-1.0, 1.0]), (0, weights.shape[-1] - 2))


class WeightsOfNothing(Attends):
    def weigh(self, logits: Tensor, mass: Tensor) -> Tensor:
        return super().weigh(logits.masked_fill(mass[..., None] > 0, -torch.inf), mass)


class AttendsByBatch(Attends):
    def weigh(self, logits: Tensor, mass: Tensor) -> Tensor:
        return super().weigh(logits - logits.mean(0), mass)


MUTANTS: list[tuple[Check, Subject, str]] = [
    (room.check_conforms, NoObjective, "inherit from castssl.contracts.Objective"),
    (room.check_conforms, NoModel, "set self.model"),
    (room.check_conforms, CopiesEncoder, "around the encoder that the factory was given"),
    (room.check_conforms, HeadBesideModel, "beside.weight, beside.bias is trained beside self.model"),
    (room.check_conforms, NoBase, "the model itself as 'base'"),
    (room.check_conforms, BranchOfEncoder, "the branches ema are not a castssl.contracts.Model"),
    (room.check_conforms, UnknownTarget, "set target"),
    (room.check_conforms, NarrowTexts, "set text_dim to a width, or 0 for no texts, got 8.0"),
    (room.check_missing_texts, MeanOfNoTexts, "gave nan"),
    (room.check_refuses_wrong_batches, TakesNoText, "given a batch without texts, raise ValueError"),
    (room.check_outcome, LogsGraph, "detach it"),
    (room.check_outcome, LossPerImage, "must be a scalar"),
    (room.check_outcome, DetachedLoss, "no gradient"),
    (room.check_gradients, IdleHead, "idle.weight, idle.bias"),
    (room.check_gradients, GradientToAverage, "frozen parameters got a gradient: average.weight"),
    (room.check_fits_one_batch, ShufflesLabels, "not learned"),
    (room.check_refuses_wrong_batches, TakesFirstView, "given 2 views, raise ValueError"),
    (room.check_refuses_wrong_batches, TakesAnyDtype, "target of torch.float32, raise ValueError"),
    (room.check_refuses_wrong_batches, TakesAnyWidth, "width 3, raise ValueError"),
    (room.check_refuses_wrong_batches, TakesAnyMap, "target of torch.float32, raise ValueError"),
    (room.check_refuses_wrong_batches, TakesPaths, "in place of maps, raise ValueError"),
    (room.check_unknown_labels, UnknownIsFirstClass, "expected 0: leave out -1"),
    (room.check_unknown_labels, PullsWithoutLabels, "gave a gradient to"),
    (room.check_unknown_labels, UnknownIsAbsent, "expected 0: leave out -1"),
    (room.check_unknown_labels, MeanOfNothing, "loss of nan"),
    (room.check_refuses_wrong_batches, TakesAnyTags, "int64"),
    (room.check_predictions, PredictsImages, r"expected \(4, C, h, w\), got \(4, 4\)"),
    (room.check_returns_non_finite_loss, RaisesOnNan, "instead of raising"),
    (room.check_returns_non_finite_loss, HidesNan, "do not hide it"),
    (room.check_state_is_complete, ProgressOutside, "parameters or buffers"),
    (room.check_after_step_leaves_weights_alone, ShrinksWeights, "head.weight"),
    (room.check_bfloat16, NarrowLoss, "loss in float32, got torch.bfloat16"),
    (room.check_runs_on_a_device, WeightsOnTheCPU, "make tensors with device="),
    (room.check_runs_on_a_device, AverageOnTheCPU, "register constants by register_buffer"),
    (room.check_predictions, PredictsNothing, "return its logits"),
    (room.check_predictions, PredictsByBatch, "depends on the other images"),
    (room.check_several_widths, ReadsEarlyStage, "read the width of each stage in stage_dims"),
    (room.check_label_attention, PathsAttend, 'only labels of target "multihot" attend'),
    (room.check_label_attention, AttendsAlone, "None for some batches"),
    (room.check_label_attention, BareWeights, "return castssl.types.LabelAttention, got tuple"),
    (room.check_label_attention, OneStage, "1 weights for 3 stages"),
    (room.check_label_attention, TokensFirst, r"shape \(4, 16, 4\), not \(4, 4, 16\)"),
    (room.check_label_attention, HalfWeights, "torch.bfloat16, not float32"),
    (room.check_label_attention, AttendsToPadding, "mask them out"),
    (room.check_label_attention, HidesPaddingAfterwards, "must sum to 1"),
    (room.check_label_attention, BothWays, "is below 0"),
    (room.check_label_attention, WeightsOfNothing, "not finite"),
    (room.check_label_attention, AttendsByBatch, "depend on the other images"),
    (room.check_two_ranks_stay_equal, LocalCenter, "two ranks differ in center"),
    (room.check_two_ranks_stay_equal, AverageByRank, "two ranks differ in average.weight"),
]
