"""Semantic segmentation by mask queries: match queries and classes, and learn class and mask of each pair.

The losses are those of Mask2Former (https://arxiv.org/abs/2112.01527), which EoMT uses, too.  Where these
sample points, each mask is here compared at all labeled pixels: a token counts once for each of its pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from castssl import distributed
from castssl.contracts import Encoder
from castssl.labels import LabelTree
from castssl.models.mask_queries import MaskQueries, Predictions
from castssl.objectives.segmentation import Segmentation, check_maps
from castssl.types import Batch, DenseTokens, Outcome

CLASS, MASK, DICE = 2.0, 5.0, 5.0
"""Weights of cross entropy of classes, binary cross entropy of masks, and dice; also of the costs."""
NO_SEGMENT = 0.1
"""Weight of the class that a query without a segment has."""


class Losses(NamedTuple):
    """Float32 scalars with gradient: sums over the predictions."""

    total: Tensor
    classes: Tensor
    masks: Tensor
    dice: Tensor


def class_pixels(tokens: DenseTokens, target: Tensor, classes: int) -> Tensor:
    """How many pixels of each class lie in each token: float32 (B, N, C).

    Args:
        tokens: where they lie; their label map is resized to the target's size if it has another one.
        target: int64 (B, H, W), each a class or -1, which is unknown and does not count.
        classes: number of classes C.
    """
    labels, count = tokens.labels, tokens.x.shape[1]
    if labels.shape != target.shape:
        labels = F.interpolate(labels[:, None].float(), target.shape[1:], mode="nearest")[:, 0]
    flat, truth = labels.flatten(1).long(), target.flatten(1)
    index = (flat * classes + truth).masked_fill((flat < 0) | (truth < 0), count * classes)
    ones = torch.ones(1, device=flat.device).expand(index.shape)
    empty = ones.new_zeros(len(flat), count * classes + 1)
    pixels: Tensor = empty.scatter_add(1, index, ones)[:, :-1].unflatten(1, (count, classes))
    return pixels


def pair_losses(masks: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross entropy and dice of each mask as the mask of each class, over the labeled pixels.

    Args:
        masks: logits float (..., B, Q, N).
        pixels: from :func:`class_pixels`.

    Returns:
        Two of float32 (..., B, Q, C).
    """
    with torch.autocast(masks.device.type, enabled=False):
        masks, area = masks.float(), pixels.sum(-1, keepdim=True)
        total = area.sum(1, keepdim=True).clamp(min=1)
        # -log sigmoid(-m) = softplus(m), and -log sigmoid(m) = softplus(m) - m.
        entropy = (F.softplus(masks) @ area - masks @ pixels) / total
        inside = masks.sigmoid()
        union = inside @ area + pixels.sum(1, keepdim=True)
        dice = 1 - (2 * (inside @ pixels) + 1) / (union + 1)
    return entropy, dice


def match(costs: Tensor, present: Tensor) -> Tensor:
    """The class of each query in the cheapest assignment: int64 (P, B, Q), C for queries without a class.

    Each class that is present gets one query, as far as there are queries.

    Args:
        costs: of each query and class, float (P, B, Q, C).
        present: which classes an image has, bool (B, C).
    """
    matched = torch.full(costs.shape[:-1], costs.shape[-1], dtype=torch.int64)
    # Not a number is not an error here: the loss of the pair stays so, and the run reports it.
    tables, classes = costs.detach().nan_to_num().cpu().numpy(), present.cpu()
    for prediction in range(len(tables)):
        for image, table in enumerate(tables[prediction]):
            there = classes[image].nonzero()[:, 0]
            rows, columns = linear_sum_assignment(table[:, there.numpy()])
            matched[prediction, image, torch.from_numpy(rows)] = there[torch.from_numpy(columns)]
    return matched.to(costs.device)


def mask_losses(predictions: Predictions, pixels: Tensor) -> Losses:
    """The losses of the pairs of queries and classes that match.

    Masks are divided by the mean number of classes in the images of a process.  An image without a labeled
    pixel does not count.

    Args:
        predictions: of the queries.
        pixels: from :func:`class_pixels`.
    """
    logits, classes = predictions.classes.float(), pixels.shape[-1]
    present = pixels.sum(1) > 0
    entropy, dice = pair_losses(predictions.masks, pixels)
    likely = logits.softmax(-1)[..., :-1]
    matched = match(MASK * entropy + DICE * dice - CLASS * likely, present)
    paired = matched < classes
    weight = torch.where(paired, 1.0, NO_SEGMENT) * present.any(1)[:, None]
    wrong = F.cross_entropy(logits.flatten(0, 2), matched.flatten(), reduction="none").view(matched.shape)
    of_classes = ((wrong * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=NO_SEGMENT)).sum()
    share = distributed.mean(present.sum().float()).clamp(min=1)
    index = matched.clamp(max=classes - 1)[..., None]
    of_masks, of_dice = ((loss.gather(-1, index)[..., 0] * paired).sum() / share for loss in (entropy, dice))
    return Losses(CLASS * of_classes + MASK * of_masks + DICE * of_dice, of_classes, of_masks, of_dice)


class MaskClassification(Segmentation):
    """Learn the class of each pixel by mask queries; an image's targets are the masks of its classes.

    Args:
        encoder: one with dense tokens.
        labels: a label tree of one level, the classes of pixels.
        frozen: train the head alone, with blocks of its own.
        masked: False never restricts the attention of a query to its mask.

    Raises:
        ConfigError: as for :class:`castssl.objectives.segmentation.Segmentation`.
    """

    def __init__(
        self, encoder: Encoder, labels: LabelTree, *, frozen: bool = False, masked: bool = True
    ) -> None:
        super().__init__(encoder, labels, head="frozen-queries" if frozen else "queries", frozen=frozen)
        assert isinstance(self.model.head, MaskQueries)
        self.queries = self.model.head
        if not masked:
            self.queries.disable_masks()

    def forward(self, batch: Batch) -> Outcome:
        """The losses of matched pairs, and the share of labeled pixels whose class has the highest score.

        Raises:
            ValueError: unless the batch has one view and a target int64 (B, H, W).
        """
        target = check_maps(batch)
        predictions = self.model.predict_masks(batch.views[0])
        pixels = class_pixels(predictions.tokens, target, self.model.classes)
        losses = mask_losses(predictions, pixels)
        best = predictions.scores().argmax(-1, keepdim=True)
        logs = {"loss": losses.total, "class_loss": losses.classes, "mask_loss": losses.masks}
        logs |= {"dice_loss": losses.dice, "accuracy": pixels.gather(-1, best).sum() / pixels.sum()}
        return Outcome(losses.total, {name: value.detach() for name, value in logs.items()})

    def after_step(self, progress: float) -> None:
        """Restrict fewer queries to their masks."""
        self.queries.anneal(progress)
