"""DeiT: supervised training with mixed images and soft targets.

Training data-efficient image transformers, https://arxiv.org/abs/2012.12877; the binary loss is that of
DeiT III, https://arxiv.org/abs/2204.07118, section 3; CAST, Table 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from timm.loss.binary_cross_entropy import BinaryCrossEntropy
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from castssl.contracts import Encoder, Target
from castssl.errors import ConfigError
from castssl.objectives.labelled import check_labelled, classes_of
from castssl.objectives.mixing import Mixing
from castssl.types import Batch, LabelTree, Outcome, View

Branch = Literal["base", "ema"]


class DeiT(nn.Module):
    """An encoder with one linear head on the class token of its last stage, at one label level.

    In training mode images are mixed and targets softened; in evaluation mode neither.

    Args:
        encoder: what is trained.
        labels: the data set's label tree.
        level: the label level to learn; -1 is the finest.
        mixup: see :class:`castssl.objectives.mixing.Mixing`; so are the next two.
        cutmix: likewise.
        smoothing: likewise; 0 with ``bce``.
        bce: a binary loss for each class, whose target is 1 for every class that is in the mixture, in place
            of cross entropy with soft targets.
        ema: keep an average of encoder and head that moves by 1 - ``ema`` a step, for ``branch("ema")``; 0
            keeps none.  The released code has 0.99996.

    Raises:
        ConfigError: if the data set is unlabelled, its labels do not exclude each other, or it has no such
            level; if an option is out of range.
    """

    views = 1
    target: Target = "path"

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        level: int = -1,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        smoothing: float = 0.1,
        bce: bool = False,
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= ema < 1:
            raise ConfigError(f"ema is the share that an average keeps: expected 0 to below 1, got {ema}")
        self.classes = classes_of(labels, level)
        self.levels, self.level = labels.levels, level % labels.levels
        self.encoder = encoder
        self.head = nn.Linear(encoder.dim, self.classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.mixing = Mixing((self.classes,), mixup=mixup, cutmix=cutmix, smoothing=0 if bce else smoothing)
        self.hard = Mixing((self.classes,), mixup=0, cutmix=0, smoothing=0)
        soft: type[Any] = SoftTargetCrossEntropy
        self.criterion = BinaryCrossEntropy(target_threshold=0.0) if bce else soft()
        self.average = None
        if ema:
            self.average = ModelEmaV3(self._trained(), decay=ema)
            self.average.requires_grad_(False)

    def forward(self, batch: Batch) -> Outcome:
        """The loss, and the share of images whose class (in a mixture: the heavier one) comes first.

        Raises:
            ValueError: unless the batch has one view and an int64 target of as many levels as the labels.
        """
        path = check_labelled(batch, self.levels)
        mix = self.mixing if self.training else self.hard
        view, (target,) = mix(batch.views[0], path[:, [self.level]])
        logits = self.predict(view)["class"].float()
        loss: Tensor = self.criterion(logits, target)
        right = (logits.detach().argmax(1) == target.argmax(1)).float().mean()
        return Outcome(loss, {"loss": loss.detach(), "accuracy": right})

    def after_step(self, progress: float) -> None:
        """Move the average."""
        if self.average is not None:
            self.average.update(self._trained())

    def predict(self, view: View, branch: Branch = "base") -> Mapping[str, Tensor]:
        """Logits (B, C) of the classes of the level, as ``class``."""
        part = self._branch(branch)
        return {"class": part["head"](part["encoder"](view).stages[-1].cls[:, 0])}

    def branch(self, name: Branch) -> Encoder:
        """The encoder that is trained, or its average.

        Raises:
            ConfigError: if no average is kept.
        """
        return cast(Encoder, self._branch(name)["encoder"])

    def heads(self, branch: Branch = "base") -> dict[str, Tensor]:
        """Weight (C, D) and bias (C,) of the classifier, under the names of the released models."""
        head = self._branch(branch)["head"]
        return {"head.weight": head.weight, "head.bias": head.bias}

    def train(self, mode: bool = True) -> DeiT:
        """As in torch, but the average stays in evaluation mode."""
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    def _branch(self, name: Branch) -> Mapping[str, Any]:
        if name == "base":
            return {"encoder": self.encoder, "head": self.head}
        if self.average is None:
            raise ConfigError("there is no average of the weights; build DeiT with ema=0.99996, or --ema")
        return cast("Mapping[str, Any]", self.average.module)

    def _trained(self) -> nn.ModuleDict:
        """Encoder and head together; not kept, or the state would hold them twice."""
        return nn.ModuleDict({"encoder": cast(nn.Module, self.encoder), "head": self.head})
