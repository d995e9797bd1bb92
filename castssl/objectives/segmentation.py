"""Semantic segmentation: a head on dense tokens, and cross entropy over the labeled pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl import distributed
from castssl.contracts import Encoder, Model, Objective
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.models.mask_queries import MaskQueries, Predictions
from castssl.models.segmentation_heads import create_head, paint
from castssl.types import Batch, DenseTokens, Outcome, View

Mean = Literal["global", "process"]
"""Over which pixels :func:`masked_cross_entropy` divides."""


def masked_cross_entropy(logits: Tensor, target: Tensor, mean: Mean = "global") -> Tensor:
    """Cross entropy over the labeled pixels, for gradients that are averaged over the processes.

    With ``"global"`` the denominator is the number of labeled pixels of all processes over the number of
    processes: the mean of the processes' losses and of their gradients is that of one process with all the
    images.  Each process must call this equally often, as the counts are all-reduced.  With ``"process"``
    each process divides by its own count, as in the code released with CAST, so a pixel weighs more
    where fewer are labeled.  mmsegmentation divides by all pixels, also those without a label, unless
    ``avg_non_ignore`` is set.

    Args:
        logits: float (B, C, ...), in the last axes of the shape of ``target``.
        target: int64 (B, ...), each a class or -1, which is unknown and does not count.
        mean: ``"global"`` or ``"process"``.

    Returns:
        float32 scalar with gradient; 0, with zero gradients, if nothing is labeled.

    Raises:
        ValueError: if dtype or shapes do not fit, or ``mean`` is unknown.
    """
    if target.dtype != torch.int64:
        raise ValueError(f"expected a target of torch.int64, got {target.dtype}")
    if logits.dim() < 2 or (len(logits), *logits.shape[2:]) != tuple(target.shape):
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} and a target of shape {tuple(target.shape)}: expected"
            " (B, C, ...) and (B, ...); resize the logits to the target's size"
        )
    if mean not in ("global", "process"):
        raise ValueError(f"mean: got {mean!r}, expected 'global' or 'process'")
    count = (target != -1).sum()
    share = distributed.mean(count) if mean == "global" else count
    total = F.cross_entropy(logits.float(), target, ignore_index=-1, reduction="sum")
    return total / torch.where(share > 0, share, 1)


class SegmentationModel(Model):
    """An encoder with dense tokens, and a head that scores the classes of each.

    Args:
        encoder: one with dense tokens.
        head: a name of :data:`castssl.models.segmentation_heads.HEADS`; or ``queries``, mask queries in the
            encoder's last blocks, or ``frozen-queries``, the same in blocks of their own.
        classes: number of classes C.
        frozen: True if the encoder is not trained; nothing is then kept for a gradient through it.

    Raises:
        ConfigError: if the encoder has no dense tokens, or there is no such head.
    """

    head: nn.Module

    def __init__(self, encoder: Encoder, head: str, classes: int, *, frozen: bool = False) -> None:
        if encoder.dense_dim is None:
            raise ConfigError(
                f"a {type(encoder).__name__} has no tokens for segmentation; take an encoder that defines"
                " dense(view), such as those of castssl and of timm"
            )
        queries = {"queries": False, "frozen-queries": True}
        if head in queries:
            super().__init__(encoder, head=MaskQueries(encoder, classes, own=queries[head]))
        else:
            super().__init__(encoder, head=create_head(head, encoder.dense_dim, classes))
        self.classes, self.frozen = classes, frozen
        if frozen:
            encoder.requires_grad_(False)
            encoder.eval()

    def forward(
        self, view: View, sizes: Sequence[int] | None = None, *, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Logits of each pixel, or scores if the head has mask queries: float (B, C, H, W).

        Args:
            view: as for the encoder.
            sizes: other token budgets than the encoder's own.
            size: height and width of the maps; None for those of the image.
        """
        logits, tokens = self.score(view, sizes)
        height, width = view.image.shape[-2:]
        return paint(logits, tokens, size or (height, width))

    def score(self, view: View, sizes: Sequence[int] | None = None) -> tuple[Tensor, DenseTokens]:
        """Logits or scores of each token, float (B, N, C), and the tokens.

        Args:
            view: as for the encoder.
            sizes: as for :meth:`forward`.
        """
        if isinstance(self.head, MaskQueries):
            predictions = self.predict_masks(view, sizes)
            return predictions.scores(), predictions.tokens
        tokens = self._dense(view, sizes)
        return self.head(tokens), tokens

    def predict_masks(self, view: View, sizes: Sequence[int] | None = None) -> Predictions:
        """What mask queries predict; for a head that has them.

        Args:
            view: as for the encoder.
            sizes: as for :meth:`forward`.
        """
        predictions: Predictions = self.head(self.encoder, lambda: self._dense(view, sizes))
        return predictions

    def _dense(self, view: View, sizes: Sequence[int] | None) -> DenseTokens:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder.dense(view, sizes)

    if TYPE_CHECKING:

        def __call__(
            self, view: View, sizes: Sequence[int] | None = None, *, size: tuple[int, int] | None = None
        ) -> Tensor: ...

    def train(self, mode: bool = True) -> SegmentationModel:
        """As in torch, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


class Segmentation(Objective):
    """Learn the class of each pixel.

    Args:
        encoder: one with dense tokens.
        labels: a label tree of one level, the classes of pixels.
        head: ``linear``, ``fused`` or ``segmenter``, see :mod:`castssl.models.segmentation_heads`; mask
            queries learn by :class:`castssl.objectives.mask_classification.MaskClassification`.
        frozen: train the head alone.
        mean: over which pixels the loss is a mean, see :func:`masked_cross_entropy`.

    Raises:
        ConfigError: if the encoder has no dense tokens, the labels have not one level of classes that exclude
            each other, or there is no such head.
    """

    target = "map"
    model: SegmentationModel

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        head: str = "linear",
        frozen: bool = False,
        mean: Mean = "global",
    ) -> None:
        super().__init__()
        if labels.levels != 1 or not labels.exclusive:
            raise ConfigError(
                f"segmentation learns one level of classes, of which a pixel has one; got {labels.levels}"
                f" levels of {labels.sizes} classes{'' if labels.exclusive else ' of which many may apply'};"
                " take data with label maps, such as voc:, ade20k: or pairs:"
            )
        self.mean = mean
        self.model = SegmentationModel(encoder, head, labels.sizes[0], frozen=frozen)

    def forward(self, batch: Batch) -> Outcome:
        """Cross entropy, and the share of labeled pixels whose class comes first.

        Raises:
            ValueError: unless the batch has one view and a target int64 (B, H, W).
        """
        target = check_maps(batch)
        logits = self.model(batch.views[0], size=(target.shape[1], target.shape[2]))
        loss = masked_cross_entropy(logits, target, self.mean)
        right = (logits.detach().argmax(1) == target).sum() / (target >= 0).sum()
        return Outcome(loss, {"loss": loss.detach(), "accuracy": right})

    def predict(self, view: View) -> Mapping[str, Tensor]:
        """Logits or scores (B, C, H, W) of each pixel of the image, as ``class``."""
        return {"class": self.model(view)}


def check_maps(batch: Batch) -> Tensor:
    """The target of a batch with one view and class maps.

    Raises:
        ValueError: naming what the batch has.
    """
    if len(batch.views) != 1:
        raise ValueError(f"segmentation takes 1 view of each image, got {len(batch.views)}")
    target, images = batch.target, len(batch.views[0].image)
    if target.dtype != torch.int64 or target.ndim != 3 or len(target) != images:
        raise ValueError(
            f"segmentation takes class maps int64 (B, H, W) of {images} images, got {target.dtype} of shape"
            f" {tuple(target.shape)}; take data with label maps"
        )
    return target
