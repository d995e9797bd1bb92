"""FGN: each label level has a part of the feature, and coarser classifiers also read the finer parts.

Your "Flamingo" is My "Bird": Fine-Grained, or Not (Chang et al., CVPR 2021), https://arxiv.org/abs/2011.09040,
section 3: learning coarse labels harms fine features, while fine features help coarse classification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.classification import ClassifierModel, linear
from castssl.types import View
from castssl_baselines.flat import LevelSum


class Parts(ClassifierModel):
    """An encoder, a neck, and a classifier of each level on its part of the feature and all finer ones.

    Args:
        encoder: what is trained.
        widths: how wide each level's part is, coarse to fine.
        neck: from the class token to the feature.
        level_heads: classifiers, coarse to fine.
    """

    neck: nn.Module
    level_heads: nn.ModuleList

    def __init__(
        self, encoder: Encoder, widths: Sequence[int], neck: nn.Module, level_heads: nn.ModuleList
    ) -> None:
        super().__init__(encoder, neck=neck, level_heads=level_heads)
        self.widths = tuple(widths)

    def forward(self, view: View) -> Mapping[str, Tensor]:
        """Logits (B, C) of each level, ``level0`` the coarsest."""
        parts = self.neck(self.feature(view)).split(self.widths, 1)
        logits = answers(parts, [*self.level_heads])
        return {f"level{level}": scores for level, scores in enumerate(logits)}


class FGN(LevelSum):
    """A linear head for each label level, on that level's part of the feature and all finer parts.

    Through the finer parts no gradient goes, so each part learns from the labels of its own level.  The loss
    is the sum of the levels' cross entropies; images whose label is missing at a level have no part in it.

    Choices where the paper leaves one: the feature is the class token of the encoder's last stage (of a
    convolutional network, the pooled map); it passes a batch norm, a linear layer, a batch norm and an ELU
    before it is parted; the parts are equally wide but for a remainder, which goes to the coarsest.  With
    the default ``width``, ResNet-50 and Living-17's classifiers have 24.8 million parameters, which is the
    figure on H-CAST's poster.  Mixing and smoothing are off, as in the paper.

    Attributes:
        widths: how wide each level's part is, coarse to fine.

    Args:
        encoder: what is trained.
        labels: the data set's label tree.
        width: how wide all parts are together.
        mixup: see :class:`castssl.objectives.mixing.Mixing`; so are the next two.
        cutmix: likewise.
        smoothing: likewise.
        ema: as :class:`castssl.objectives.deit.DeiT` has it.

    Raises:
        ConfigError: if the data set is unlabeled or its labels do not exclude each other; if an option is
            out of range.
    """

    model: Parts

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        width: int = 600,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        smoothing: float = 0.0,
        ema: float = 0.0,
    ) -> None:
        super().__init__(labels, mixup=mixup, cutmix=cutmix, smoothing=smoothing)
        levels = len(self.classes)
        if width < levels:
            raise ConfigError(f"width: got {width} for {levels} label levels; each needs 1 or more")
        self.widths = (width - width // levels * (levels - 1), *[width // levels] * (levels - 1))
        neck = nn.Sequential(
            nn.BatchNorm1d(encoder.dim), nn.Linear(encoder.dim, width), nn.BatchNorm1d(width), nn.ELU()
        )
        level_heads = nn.ModuleList(
            linear(sum(self.widths[level:]), count, width=encoder.dim)
            for level, count in enumerate(self.classes)
        )
        self.model = Parts(encoder, self.widths, neck, level_heads)
        self.keep_average(ema)


def answers(features: Sequence[Tensor], heads: Sequence[nn.Module]) -> list[Tensor]:
    """Each level's head on its own feature and the finer ones, through which no gradient goes.

    Args:
        features: float (B, W) of each level, coarse to fine.
        heads: of each level; that of level l takes the widths of l and all that are finer, in this order.

    Returns:
        Logits (B, C) of each level.
    """
    fixed = [feature.detach() for feature in features]
    return [
        head(torch.cat([feature, *fixed[level + 1 :]], 1))
        for level, (feature, head) in enumerate(zip(features, heads, strict=True))
    ]
