"""DINO: a student predicts the soft assignments that a momentum teacher makes of the other view.

Emerging Properties in Self-Supervised Vision Transformers, https://arxiv.org/abs/2104.14294, Algorithm 1.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any, cast

import torch
from lightly.loss.dino_loss import DINOLoss
from lightly.models.modules.heads import DINOProjectionHead
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.moco import Projected
from castssl.types import Batch, Outcome
from castssl_lightly.momentum import MomentumObjective
from castssl_lightly.siamese import in_float32, spread


class DINO(MomentumObjective):
    """Agree with the teacher about the other view, on two global views: no local crops.

    All views of an image that castssl's recipes make have one size, so there are no
    local crops.  The released code recommends crops of 0.14 to 1 of an image then.

    The teacher drops nothing, and its batch norms run in training mode, as in the released code.  The other
    parts of the teacher are in evaluation mode.  The schedules count by the share of training done, where the
    paper counts epochs.

    Args:
        encoder: what is pretrained.
        labels: the data set's label tree, unused.
        momentum: lambda of the teacher at the start; rises to 1 along half a cosine (section 3.1).
        temperature: the student's (section 3.2).
        teacher_temperature: the teacher's after its warm-up (section 3.2).
        teacher_start: the teacher's at the start (section 3.2).
        warmup: share of training in which it rises linearly; the paper has 30 epochs.
        center_momentum: m of equation 4 (appendix D).
        hidden: width of the projector's hidden layers (section 3.1).
        bottleneck: width before the last layer (appendix C).
        out: K, the width of the last layer (section 3.1, appendix C).
        freeze: share of training in which the last layer stays as it is; the released code has 1 epoch.

    Raises:
        ConfigError: if an option is out of range.
    """

    progress: Tensor

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree | None = None,
        *,
        momentum: float = 0.996,
        temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        teacher_start: float = 0.04,
        warmup: float = 0.1,
        center_momentum: float = 0.9,
        hidden: int = 2048,
        bottleneck: int = 256,
        out: int = 65536,
        freeze: float = 0.01,
    ) -> None:
        _check_shares(warmup=warmup, center_momentum=center_momentum, freeze=freeze)
        _check_positive(
            temperature=temperature, teacher_temperature=teacher_temperature, teacher_start=teacher_start
        )
        widths = (encoder.dim, hidden, bottleneck, out)
        projector, copy = _head(widths), _head(widths)
        copy.load_state_dict(projector.state_dict())
        model, copied = Projected(encoder, projector=projector), Projected(deepcopy(encoder), projector=copy)
        super().__init__(model, copied, momentum)
        self.criterion = _Loss(
            out, teacher_temp=teacher_temperature, student_temp=temperature, center_momentum=center_momentum
        )
        self.temperatures, self.warmup, self.freeze = (teacher_start, teacher_temperature), warmup, freeze
        self.register_buffer("progress", torch.zeros(()))
        self.register_load_state_dict_post_hook(_read_progress)  # type: ignore[no-untyped-call]
        self._set_progress(0.0)
        # In each forward pass, and on what the layer computes of its parameters: FSDP replaces parameters.
        projector.get_submodule("last_layer").register_forward_pre_hook(self._freeze_last)

    def forward(self, batch: Batch) -> Outcome:
        """The cross entropy of teacher and student, mean over both directions; and the teacher's spread.

        In training mode the center moves.

        Raises:
            ValueError: unless the batch has two views of floating-point images.
        """
        first, second = self.pair(batch)
        student = self.model.project(first), self.model.project(second)
        with torch.no_grad():
            teacher = self.momentum_model.project(first), self.momentum_model.project(second)
        loss = in_float32(self._agree, *teacher, *student)
        return Outcome(loss, {"loss": loss.detach(), "spread": spread(teacher[0])})

    def after_step(self, progress: float) -> None:
        """Move the teacher, and go on in the schedules."""
        super().after_step(progress)
        self.progress.fill_(progress)
        self._set_progress(progress)

    def train(self, mode: bool = True) -> DINO:
        """As in torch, but of the teacher only batch norms are in training mode."""
        super().train(mode)
        for part in self.momentum_model.modules():
            # after_step moves parameters alone: in evaluation mode the statistics would stay as they began.
            part.training = mode and isinstance(part, nn.modules.batchnorm._BatchNorm)
        return self

    def _agree(self, t1: Tensor, t2: Tensor, s1: Tensor, s2: Tensor) -> Tensor:
        loss: Tensor = self.criterion([t1, t2], [s1, s2], teacher_temp=self._temperature)
        return loss

    def _set_progress(self, progress: float) -> None:
        """Set what depends on progress, as plain numbers: lightly would copy a tensor from the device."""
        start, end = self.temperatures
        share = min(progress / self.warmup, 1.0) if self.warmup else 1.0
        self._temperature = start + (end - start) * share
        self._frozen = progress < self.freeze

    def _freeze_last(self, layer: nn.Module, _: Any) -> None:
        """Before the last layer runs, behind the hook that computes its weight: no gradient reaches it."""
        weight = layer.weight
        assert isinstance(weight, Tensor)
        if self._frozen and weight.requires_grad:
            weight.register_hook(torch.zeros_like)


class _Loss(DINOLoss):  # type: ignore[misc]
    """lightly's, whose center moves in training mode only."""

    def update_center(self, teacher_out: Tensor) -> None:
        if self.training:
            super().update_center(teacher_out)


def _read_progress(module: nn.Module, _: Any) -> None:
    """After a state was loaded, its progress counts."""
    objective = cast(DINO, module)
    objective._set_progress(float(objective.progress))


def _head(widths: tuple[int, ...]) -> nn.Module:
    with warnings.catch_warnings():
        # lightly's head uses a function of torch that is deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        return DINOProjectionHead(*widths)  # type: ignore[no-any-return]


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} is a share: expected 0 to 1, got {share}")


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if number <= 0:
            raise ConfigError(f"{name} must be above 0, got {number}")
