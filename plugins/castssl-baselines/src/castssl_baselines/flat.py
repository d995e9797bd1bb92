"""Flat-ViT and Flat-CAST: a model of its own for each label level, the baseline that H-CAST begins with.

Visually Consistent Hierarchical Image Classification (ICLR 2025), Flat baselines: nothing ties the levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.labels import LabelTree
from castssl.objectives.classification import ClassifierModel, Supervised, cross_entropy, linear
from castssl.types import View


class Encoders(ClassifierModel):
    """An encoder and a classifier for each label level.

    Attributes:
        encoder: the finest level's.
        coarser: those of the other levels, coarse to fine.
        level_heads: classifiers, coarse to fine.
    """

    coarser: nn.ModuleList
    level_heads: nn.ModuleList

    def forward(self, view: View) -> Mapping[str, Tensor]:
        """Logits (B, C) of each level: ``level0``, the coarsest, ``level1``, ..."""
        pairs = zip([*self.coarser, self.encoder], self.level_heads, strict=True)
        return {
            f"level{level}": head(encoder(view).stages[-1].cls[:, 0])
            for level, (encoder, head) in enumerate(pairs)
        }


class LevelSum(Supervised):
    """An objective whose loss is the sum of the levels' cross entropies."""

    def criterion(
        self, logits: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The sum of the levels' cross entropies."""
        return torch.stack([cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]).sum(), {}


class Flat(LevelSum):
    """One encoder and one linear head for each label level, trained side by side on the same images.

    The loss is the sum of the levels' cross entropies; no parameter is in two of them, so the models
    learn what each would learn in a run of its own.  The coarser levels' encoders begin as copies of the one
    that is given: as runs with the same seed, or from the same trained weights, would.  Weights that are
    loaded later have to reach all of them; :func:`castssl.checkpoints.initialize.initialize` does that.

    Args:
        encoder: what is trained, as many times as there are levels.
        labels: the data set's label tree.
        mixup: see :class:`castssl.objectives.mixing.Mixing`; so are the next two.
        cutmix: likewise.
        smoothing: likewise.
        ema: as :class:`castssl.objectives.deit.DeiT` has it.

    Raises:
        ConfigError: if the data set is unlabeled, its labels do not exclude each other, or an option is out
            of range.
    """

    model: Encoders

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        smoothing: float = 0.1,
        ema: float = 0.0,
    ) -> None:
        super().__init__(labels, mixup=mixup, cutmix=cutmix, smoothing=smoothing)
        coarser = nn.ModuleList(deepcopy(encoder) for _ in self.classes[:-1])
        level_heads = nn.ModuleList(linear(encoder.dim, count) for count in self.classes)
        self.model = Encoders(encoder, coarser=coarser, level_heads=level_heads)
        self.keep_average(ema)
