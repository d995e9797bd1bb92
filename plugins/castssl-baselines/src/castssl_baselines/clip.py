"""Zero-shot CLIP: classification at all levels of a tree by the classes' names, without training.

Learning Transferable Visual Models From Natural Language Supervision, https://arxiv.org/abs/2103.00020,
section 3.1; H-CAST's poster compares with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.classification import ClassifierModel
from castssl.text import phrase
from castssl.text_encoders import ReadsNames
from castssl.types import View
from castssl_baselines.flat import LevelSum


class Compared(ClassifierModel):
    """An encoder, and ``level_heads``, which hold the vectors of the classes, coarse to fine."""

    level_heads: nn.ModuleList

    def forward(self, view: View) -> Mapping[str, Tensor]:
        """Logits float32 (B, C) of each level, ``level0`` the coarsest."""
        feature = self.feature(view)
        return {f"level{level}": head(feature) for level, head in enumerate(self.level_heads)}


class CLIP(LevelSum):
    """A class's logit is the cosine of image and class name, times the model's scale, at each label level.

    The vectors of the classes are computed once, when this is built, and stay.  Meant for ``--epochs 0``.
    The loss, the sum of the levels' cross entropies, trains the image tower alone, with the names as fixed
    classifiers; images whose label is missing at a level have no part in it.

    A sentence holds :func:`castssl.text.phrase` of a name.  Each level is answered for itself, so that
    nothing keeps paths consistent.

    Args:
        encoder: one with a text tower, such as ``clip:ViT-B-32/openai``, see
            :class:`castssl.text_encoders.ReadsNames`.
        labels: the data set's label tree, with names.
        templates: sentences with ``{}`` where the name belongs; several are averaged, as in the paper.
        mixup: see :class:`castssl.objectives.mixing.Mixing`; so are the next two.
        cutmix: likewise.
        smoothing: likewise.
        ema: as :class:`castssl.objectives.deit.DeiT` has it.

    Raises:
        ConfigError: if the encoder reads no names, the classes have none, a template has no place for one; if
            the data set is unlabeled or its labels do not exclude each other, or an option is out of range.
    """

    model: Compared

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        templates: str | Sequence[str] = "a photo of a {}",
        mixup: float = 0.0,
        cutmix: float = 0.0,
        smoothing: float = 0.0,
        ema: float = 0.0,
    ) -> None:
        super().__init__(labels, mixup=mixup, cutmix=cutmix, smoothing=smoothing)
        if not isinstance(encoder, ReadsNames):
            raise ConfigError(
                f"a {type(encoder).__name__} cannot read class names; take a model with a text tower, such as"
                " --model clip:ViT-B-32/openai"
            )
        sentences = [templates] if isinstance(templates, str) else list(templates)
        if not sentences or any(text.count("{}") != 1 for text in sentences):
            raise ConfigError(
                f"templates: expected {{}} once in each, where the name belongs; got {sentences}"
            )
        if not labels.names:
            raise ConfigError("the classes of this data set have no names, which is all that CLIP goes by")
        level_heads = nn.ModuleList(
            Similarity(encoder.zero_shot([phrase(name) for name in level], sentences), encoder.scale)
            for level in labels.names
        )
        self.model = Compared(encoder, level_heads=level_heads)
        self.keep_average(ema)


class Similarity(nn.Module):
    """Scaled cosine similarities with fixed vectors.

    Args:
        vectors: unit vectors float32 (C, D).
        scale: a scalar.
    """

    vectors: Tensor
    scale: Tensor

    def __init__(self, vectors: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    def forward(self, feature: Tensor) -> Tensor:
        """Features (B, D) of any length to logits float32 (B, C)."""
        # With a scale of 100, bfloat16 would round logits to whole numbers and halves.
        with torch.autocast(feature.device.type, enabled=False):
            return self.scale * F.normalize(feature.float(), dim=1) @ self.vectors.T
