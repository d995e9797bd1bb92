"""What objectives that learn classes share: heads, mixed images and soft targets.

Training data-efficient image transformers, https://arxiv.org/abs/2012.12877; H-CAST keeps all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from torch import Tensor, nn

from castssl.contracts import Model
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.models import initialization
from castssl.objectives.averaged import Averaged, Branch
from castssl.objectives.level_means import accuracies
from castssl.objectives.mixing import Mixing
from castssl.types import Batch, Outcome, View

linear = initialization.linear
"""A classifier on features (B, D) as DeiT begins with it: ``linear(dim, classes)``."""
cross_entropy: Callable[[Tensor, Tensor], Tensor] = cast(Any, SoftTargetCrossEntropy)()
"""Of logits (B, C) and soft targets (B, C), a mean over the batch; without a label an image adds nothing."""


class ClassifierModel(Model):
    """An encoder with heads that predict classes."""

    def forward(self, view: View) -> Mapping[str, Tensor]:
        """Logits (B, C) of each learned level by name, coarse to fine."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    if TYPE_CHECKING:

        def __call__(self, view: View) -> Mapping[str, Tensor]: ...


class OneHead(ClassifierModel):
    """An encoder with one classifier on its last class token."""

    head: nn.Linear

    def forward(self, view: View) -> Mapping[str, Tensor]:
        """Logits (B, C) as ``class``."""
        return {"class": self.head(self.feature(view))}


class Supervised(Averaged[ClassifierModel]):
    """An encoder that learns the classes of some label levels.

    In training mode images are mixed and targets softened; in evaluation mode neither.  A subclass sets
    :attr:`model`, whose forward predicts, and then calls :meth:`keep_average`; it defines its loss in
    :meth:`criterion`.

    A label may be missing (-1) at the finer levels of some images; see :class:`Mixing`.

    Attributes:
        classes: how many classes each learned level has, coarse to fine.
        columns: which columns of a label path these levels are.
        stages: the stage that each level reads, counted from the last, which is -1.

    Args:
        labels: the data set's label tree.
        levels: the label levels to learn, coarse to fine; None is all.
        mixup: see :class:`castssl.objectives.mixing.Mixing`; so are the next two.
        cutmix: likewise.
        smoothing: likewise.

    Raises:
        ConfigError: if the data set is unlabeled, its labels do not exclude each other, or it has no such
            level; if an option is out of range.
    """

    target = "path"

    def __init__(
        self,
        labels: LabelTree,
        *,
        levels: Sequence[int] | None = None,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        chosen = tuple(range(labels.levels)) or (-1,) if levels is None else tuple(levels)
        self.classes = tuple(classes_of(labels, level) for level in chosen)
        self.levels, self.columns = labels.levels, [level % labels.levels for level in chosen]
        self.stages: tuple[int, ...] = (-1,) * len(self.classes)
        self.mixing = Mixing(self.classes, mixup=mixup, cutmix=cutmix, smoothing=smoothing)
        self.hard = Mixing(self.classes, mixup=0, cutmix=0, smoothing=0)

    def criterion(
        self, logits: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss, a float32 scalar, and further logs.

        Args:
            logits: float32 (B, C) of each level, coarse to fine, then the further :meth:`answers`.
            targets: soft targets float32 (B, C) of each level; a row sums to 1, or less where the label is
                missing; then the :meth:`further_targets`.
        """
        raise NotImplementedError

    def forward(self, batch: Batch) -> Outcome:
        """The loss, and the share of images whose class (in a mixture: the heavier one) comes first.

        The share is over the images with a label at that level, and not a number where there is none.

        Raises:
            ValueError: unless the batch has one view and an int64 target of as many levels as the labels.
        """
        path = check_labeled(batch, self.levels)
        mix = self.mixing if self.training else self.hard
        view, share = mix.mix(batch.views[0])
        targets = mix.targets(torch.stack([path[:, column] for column in self.columns], 1), share)
        named = self.answers(view)
        logits = [scores.float() for scores in named.values()]
        loss, logs = self.criterion(logits, [*targets, *self.further_targets(batch, share)])
        return Outcome(loss, {"loss": loss.detach(), **logs, **accuracies(list(named), logits, targets)})

    def answers(self, view: View) -> Mapping[str, Tensor]:
        """What :meth:`criterion` compares: the predictions, and whatever a subclass puts after them."""
        return self.predict(view)

    def further_targets(self, batch: Batch, share: float) -> Sequence[Tensor]:
        """What :meth:`criterion` gets after the labels; ``share`` is that of an image in its mixture."""
        return ()

    def predict(self, view: View, branch: Branch = "base") -> Mapping[str, Tensor]:
        """Logits (B, C) of each learned level by name, coarse to fine."""
        return self._model(branch)(view)


def classes_of(labels: LabelTree, level: int) -> int:
    """How many classes a label level has.

    Raises:
        ConfigError: if there is no such level, or an image may carry many labels.
    """
    if not labels.levels or not labels.exclusive:
        problem = "no labels" if not labels.levels else "several labels per image"
        raise ConfigError(
            f"the data set has {problem}; expected one class for each image, such as a folder each"
        )
    if not -labels.levels <= level < labels.levels:
        raise ConfigError(f"level: got {level}, but the data set has {labels.levels} label levels, from 0")
    return labels.sizes[level]


def check_labeled(batch: Batch, levels: int, views: int = 1) -> Tensor:
    """The target of a batch with so many views: a label path int64 (B, L).

    Raises:
        ValueError: unless it is that, with both numbers.
    """
    if len(batch.views) != views:
        raise ValueError(f"expected {views} view(s) of each image, got {len(batch.views)}")
    path = batch.target
    if path.dtype != torch.int64 or path.shape[1:] != (levels,):
        wide = tuple(path.shape)
        raise ValueError(f"expected a label path int64 (B, {levels}), got {path.dtype} of shape {wide}")
    return path
