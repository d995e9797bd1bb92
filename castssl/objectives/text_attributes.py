"""Text attributes: the text of an image as a second target of its feature, in training alone.

Free-Grained Hierarchical Visual Recognition (CVPR 2026), https://arxiv.org/abs/2510.14737: a linear layer
maps an image's feature to the width of text embeddings, which are fixed, and a loss as CLIP's
(https://arxiv.org/abs/2103.00020) compares the images of a batch with the texts of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.objectives.averaged import Branch
from castssl.objectives.classification import Supervised
from castssl.types import Batch, Hierarchy

TextFeature = Literal["flattened", "mean", "class"]
"""What of a stage :class:`TextHead` reads."""


class TextHead(nn.Module):
    """A linear layer from a stage of the hierarchy to the space of text embeddings.

    ``"flattened"`` reads all tokens of the stage, one after the other, as the released code does; a pooling
    whose order of tokens differs between images gives no place of it a fixed meaning.  ``"mean"`` reads
    their mean, weighted by mass, and ``"class"`` the class token of the stage.  Padding is read as 0.

    Args:
        encoder: whose stages are read.
        stage: counted from -1, the last with a class token, down.
        feature: what is read of it.
        dim: E, the width of the text embeddings.

    Raises:
        ConfigError: if there is no such feature.
    """

    def __init__(self, encoder: Encoder, stage: int, feature: TextFeature, dim: int) -> None:
        super().__init__()
        if feature not in get_args(TextFeature):
            expected = ", ".join(get_args(TextFeature))
            raise ConfigError(f"text_feature: got {feature!r}, expected one of {expected}")
        served = encoder.stages_with_cls
        width = encoder.stage_dims[:served][stage]
        self.stage, self.feature, self.count = stage, feature, encoder.sizes[:served][stage]
        if feature == "class" and stage == -1:
            width = encoder.dim
        self.linear = nn.Linear(width * self.count if feature == "flattened" else width, dim)

    def forward(self, hierarchy: Hierarchy) -> Tensor:
        """An embedding of each image: float (B, E).

        Raises:
            ConfigError: if the tokens to flatten are not as many as the encoder's sizes say.
        """
        tokens = hierarchy.stages[self.stage]
        if self.feature == "class":
            return self.linear(tokens.cls[:, 0])  # type: ignore[no-any-return]
        if self.feature == "mean":
            share = tokens.mass / tokens.mass.sum(1, keepdim=True).clamp(min=1e-6)
            return self.linear(torch.einsum("bn,bnd->bd", share, tokens.x))  # type: ignore[no-any-return]
        if tokens.x.shape[1] != self.count:
            raise ConfigError(
                f"text_feature=flattened is built for {self.count} tokens, got {tokens.x.shape[1]}; train on"
                " images of the size of the encoder, or take text_feature=mean"
            )
        x = tokens.x * (tokens.mass > 0)[..., None]
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]


def check_text(batch: Batch, dim: int) -> Tensor:
    """The text embeddings of a batch: float32 (B, E).

    Raises:
        ValueError: unless the batch has them, in this width.
    """
    if batch.text is None:
        raise ValueError(f"expected text embeddings float32 (B, {dim}), got none; open the images with texts")
    if batch.text.dtype != torch.float32 or batch.text.shape != (len(batch.target), dim):
        raise ValueError(
            f"expected text embeddings float32 ({len(batch.target)}, {dim}), got {batch.text.dtype} of shape"
            f" {tuple(batch.text.shape)}"
        )
    return batch.text


def text_pairs(text: Tensor, share: float = 1.0) -> Tensor:
    """The share of each text in each image: float32 (B, B), images in rows.

    An image that was mixed with its mirror in the batch has the texts of both, as it has their labels.

    Args:
        text: float32 (B, E); a row of zeros is not a text, and has the share 0.
        share: of the image itself in its mixture.
    """
    own = torch.eye(len(text), device=text.device)
    return (own * share + own.flip(0) * (1 - share)) * text.any(1)


def text_losses(
    image: Tensor, text: Tensor, pairs: Tensor, temperature: float = 1.0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The cross entropies of images with texts and of texts with images, for the means over a batch.

    The released code has no temperature, thus 1: cosines themselves are the logits, so the loss of B
    perfect pairs with orthogonal texts is log(1 + (B - 1) / e), not 0.

    Args:
        image: float (B, E), with gradient.
        text: float (B, E); the texts of this process are the negatives of its images.
        pairs: :func:`text_pairs` of them.
        temperature: what cosines are divided by.

    Returns:
        The losses, float32 (B,) of the images and of the texts, and the weight of each image and each text,
        its share of known texts: 0, as its loss, where it has none.  An image and a text without a partner
        are not used as negatives, either.
    """
    with torch.autocast(image.device.type, enabled=False):
        cosines = F.normalize(image.float(), dim=1) @ F.normalize(text.float(), dim=1).T / temperature
    losses, known = [], []
    for logits, shares in ((cosines, pairs), (cosines.T, pairs.T)):
        none = ~shares.any(0)
        # Not infinity: its product with a share of 0 is not a number.
        hidden = logits.masked_fill(none, torch.finfo(torch.float32).min)
        scores = hidden.log_softmax(1).masked_fill(none, 0)
        losses.append(-(shares * scores).sum(1))
        known.append(shares.sum(1))
    return (losses[0], losses[1]), (known[0], known[1])


class ReadsTexts(Supervised):
    """An objective whose model may have a ``text_head``, which predictions and saved classifiers lack.

    A subclass calls :meth:`read_texts` before it builds its model.

    Attributes:
        text_weight: of the loss between images and texts.
        text_temperature: what their cosines are divided by.
    """

    def read_texts(self, dim: int, weight: float, temperature: float) -> None:
        """Read text embeddings of this width in training mode; none if it or the weight is 0.

        Raises:
            ConfigError: if a number is out of range.
        """
        if min(dim, weight) < 0 or temperature <= 0:
            raise ConfigError(
                "text_dim and text_weight are 0 or above, and text_temperature is above 0, got"
                f" {dim}, {weight} and {temperature}"
            )
        self.text_dim = dim if weight else 0
        self.text_weight, self.text_temperature = weight, temperature

    def text_of(self, batch: Batch) -> Tensor | None:
        """The text embeddings of a batch, float32 (B, E); None in evaluation mode, or if none are read.

        Raises:
            ValueError: as :func:`check_text`.
        """
        return check_text(batch, self.text_dim) if self.training and self.text_dim else None

    @property
    def to_load(self) -> Mapping[str, int]:
        """Without the text head, which predictions do not need."""
        return {"text_dim": 0}

    def heads(self, branch: Branch = "base") -> dict[str, Tensor]:
        """All that predictions need beside the encoder."""
        found = super().heads(branch)
        return {name: value for name, value in found.items() if not name.startswith("text_head.")}
