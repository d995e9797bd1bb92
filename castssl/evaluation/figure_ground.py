"""Figure and ground: how well the tokens that the class token attends to cover the objects of masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from castssl.datasets.images import Images
from castssl.datasets.masks import open_masks
from castssl.errors import DataError
from castssl.evaluation.features import Features
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, ImageBatch, Subject, indexed
from castssl.evaluation.overlap import masked_by, object_masks
from castssl.metrics.figure_ground import MASS, figure, figure_ground_iou
from castssl.models.attention_maps import class_attention

GROUND = ("background", "surroundings")
"""Names of the class of label maps that is the ground; all others are the figure."""
KINDS = ("mean", "head", "any_head", "chance")
"""Of which attention: the heads' mean; the head that is best over all images; the head that is best in each
image; the heads' mean with the tokens in random order."""


class Scores(NamedTuple):
    """The scores of one stage, in [0, 1]."""

    figure_iou: float
    """The mean over images of the IoU of the figure."""
    miou: float
    """The mean over images of the mean IoU of figure and ground."""


@dataclass(eq=False)
class FigureGround(Evaluator):
    """The figure of each stage, the tokens that hold 60 % of the class token's attention, against masks.

    The attention is that of the last block of each stage, which
    :func:`castssl.models.attention_maps.class_attention` records.  The paper (appendix A.5) defines neither
    which head counts nor how an image's classes become one figure: here the heads' mean and single heads have
    scores of their own, :data:`KINDS`, and all objects are the figure.  The best head is chosen on the images
    that it is scored on.

    Args:
        masks: in place of the data's own, a path as :func:`castssl.datasets.masks.open_masks` takes it.
        mass: the share of the attention that the figure holds.

    Attributes:
        scores: of the latest evaluation, by kind and stage.
        heads: the head that is best over all images, by stage.
        tokens: the token budget, by stage.
        count: how many images were scored.
    """

    title: ClassVar[str] = "figure and ground"
    masks: str | Path | None = None
    mass: float = MASS
    scores: dict[str, dict[int, Scores]] = field(default_factory=dict, init=False, repr=False)
    heads: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    tokens: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    count: int = field(default=0, init=False)
    _truth: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)
    _stages: dict[int, Features] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Read the masks or the label maps.

        Raises:
            DataError: if they cannot be read, or no image has a figure.
        """
        super().prepare(data)
        images = indexed(data.held_out)
        if self.masks is None and images.maps is not None:
            self._truth = dict(_label_maps(images, data))
        else:
            chosen = list(range(len(images)))
            if self.masks is not None:
                images, chosen = masked_by(open_masks(self.masks), images)
            masks = object_masks(images, chosen, data.view)
            self._truth = {index: inside.to(torch.int8) for index, (inside, _) in masks.items()}
        if not self._truth:
            raise DataError(
                f"none of {len(images)} images has a mask of its object, 255 on it and 0 elsewhere; give"
                " masks with --masks, or data that has masks or label maps, such as demo or voc:/path"
            )

    def images(self) -> list[int]:
        """The images with a figure."""
        return list(self._truth)

    def begin(self, subject: Subject) -> None:
        """Start anew."""
        self._stages = {}

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Score the images of a batch that have a figure."""
        if not (rows := batch.readable(indexed(self._data.held_out), self._truth)):
            return
        numbers = batch.positions.tolist()
        with class_attention(forward.subject.encoder) as weights:
            hierarchy = forward.subject.encoder(batch.views[0])
        truth = torch.stack([self._truth[numbers[row]] for row in rows])
        for stage, attention in weights.items():
            self.tokens[stage] = attention.shape[2]
            present = hierarchy.stages[stage].mass[rows, None].cpu() > 0
            heads = attention[rows].cpu() * present
            mean = heads.mean(1, keepdim=True)
            draws = [_shuffled(mean[i], present[i, 0], numbers[row]) for i, row in enumerate(rows)]
            chosen = figure(torch.cat([mean, torch.stack(draws), heads], 1), self.mass)
            iou = figure_ground_iou(chosen, hierarchy.labels(stage)[rows].cpu(), truth)
            values = torch.stack([iou[..., 0], iou.nanmean(2)], 2).flatten(1)
            kept = self._stages.setdefault(stage, Features(self._data.device))
            kept.add(values, torch.empty(len(rows), 0).long(), batch.positions[rows])

    def result(self, subject: Subject) -> dict[str, float]:
        """``figure_iou_KIND_stageN`` and ``figure_ground_miou_KIND_stageN``; see :attr:`scores`."""
        self.scores, self.heads, self.count = {kind: {} for kind in KINDS}, {}, 0
        for stage, kept in self._stages.items():
            values = kept.gather()[0]
            self.count = len(values)
            values = values.view(len(values), -1, len(Scores._fields))
            mean, chance, heads = values[:, 0], values[:, 1], values[:, 2:]
            self.heads[stage] = int(heads[..., 1].mean(0).argmax())
            best = heads[torch.arange(len(heads)), heads[..., 1].argmax(1)]
            columns = mean, heads[:, self.heads[stage]], best, chance
            for kind, column in zip(KINDS, columns, strict=True):
                self.scores[kind][stage] = Scores(*column.mean(0).tolist())
        return {
            f"{name}_{kind}_stage{stage}": value
            for kind, by_stage in self.scores.items()
            for stage, scores in by_stage.items()
            for name, value in zip(("figure_iou", "figure_ground_miou"), scores, strict=True)
        }


def _shuffled(mean: Tensor, present: Tensor, seed: int) -> Tensor:
    """A row of attention (1, N) with the tokens that are present in random order."""
    tokens = present.nonzero()[:, 0]
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    shuffled = mean.clone()
    shuffled[:, tokens] = mean[:, tokens[order]]
    return shuffled


def _label_maps(images: Images, data: Evaluation) -> Iterator[tuple[int, Tensor]]:
    """The figure of label maps, int8 (S, S): 1, 0 on the background, -1 where unknown; cut as the view.

    Raises:
        DataError: if no class is named as one of :data:`GROUND`.
    """
    names = list(images.pixel_tree.names[0]) if images.pixel_tree.names else []
    ground = next((number for number, name in enumerate(names) if name in GROUND), None)
    if ground is None:
        raise DataError(
            f"figure and ground: the label maps have no class {GROUND[0]!r} among {len(names)} names; take"
            " data that has one, such as voc:/path, or masks with --masks"
        )
    for index in range(len(images)):
        sample = images.fetch(index, labels=True)
        if sample.position != index or sample.labels is None:
            continue
        classes = data.view.crop_mask(Image.fromarray(sample.labels)).long()
        truth = torch.where(classes < 0, -1, (classes != ground).long()).to(torch.int8)
        if bool((truth == 1).any()):
            yield index, truth
