"""Overlap: how well segments fit objects and parts that no label showed, as means over images with masks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from castssl.data.evaluation_views import CenterView
from castssl.data.normalize import denormalize
from castssl.datasets.coco_masks import Annotations
from castssl.datasets.images import Images
from castssl.datasets.masks import Masks, open_masks
from castssl.errors import DataError, printable
from castssl.evaluation.features import Features
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, ImageBatch, Subject, indexed, note
from castssl.metrics.partition import best_overlap, nestedness
from castssl.metrics.regions import region_iou
from castssl.superpixels.merge import KINDS, RANDOM, merge

MASKED = 256
"""The largest number of images with masks."""
MEASURES = ("object_iou", "region_iou", "part_iou")


@dataclass(eq=False)
class Overlap(Evaluator):
    """How well the K segments of each stage fit the objects and parts of images with masks, in [0, 1].

    ``object_iou_K`` is the mean best overlap of a segment with the object, ``region_iou_K`` the mean IoU of
    object and background if each segment is given to one of them, and ``part_iou_K``, if there are part
    masks, the same of the parts; see :func:`scores`.  All are measured on the evaluation's center view, so
    that no image is decoded or segmented for them alone.

    ``nestedness`` is the mean of :func:`castssl.metrics.partition.nestedness` over adjacent stages, of the
    segments by the product of the assignments.  The others use the chain of argmaxes, which is nested, unless
    they are ``soft``.

    Args:
        sizes: K of each stage of the encoder; one that only classifies may have fewer stages.
        masks: in place of the data's own, a path as :func:`castssl.datasets.masks.open_masks` takes it.
            PartImageNet annotates ImageNet's training images: if there is no mask of a held-out image,
            training images are measured.
        soft: measure the segments by the product of the assignments in place of the chain of argmaxes.
    """

    title: ClassVar[str] = "IoU"
    sizes: Sequence[int]
    masks: str | Path | None = None
    soft: bool = False
    _source: Images = field(init=False, repr=False)
    _masks: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _merged: dict[int, Tensor] | None = field(default=None, init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Read the masks.

        Raises:
            DataError: if they cannot be read, or belong to no image.
        """
        super().prepare(data)
        self._source = indexed(data.held_out)
        chosen: Sequence[int] = range(len(self._source))
        if self.masks is not None:
            self._source, chosen = masked_by(open_masks(self.masks), self._source, indexed(data.train))
        chosen = self._eligible(chosen)
        count = min(MASKED, len(chosen))
        self._masks = object_masks(
            self._source, [chosen[place * len(chosen) // count] for place in range(count)], data.view
        )

    def images(self) -> Sequence[int]:
        """The held-out images with an object."""
        return list(self._masks) if self._held_out else ()

    def begin(self, subject: Subject) -> None:
        """Start anew; training images with masks are measured here."""
        super().begin(subject)
        if not self._held_out:
            for batch in self._batches():
                self._score(batch, Forward(subject))

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Score the images of a batch that have an object."""
        if self._held_out:
            self._score(batch, forward)

    def result(self, subject: Subject) -> dict[str, float]:
        """The overlaps by measure and stage; nothing without masks."""
        values = self._rows.gather()[0]
        if not len(values):
            return {}
        nested = float(values[:, -1].mean())
        return self._means(values[:, :-1]) | ({} if math.isnan(nested) else {"nestedness": nested})

    def baselines(self) -> dict[str, dict[str, float]]:
        """The overlaps of superpixels that :func:`castssl.superpixels.merge.merge` merges, by its kinds.

        Those merged at random are the chance level.
        """
        if self._merged is None:
            for batch in self._batches():
                self._merge(batch, batch.readable(self._source, self._masks))
        rows = Features(self._data.device)
        for index, values in (self._merged or {}).items():
            rows.add(values.view(1, -1), torch.empty(1, 0).long(), torch.tensor([index]))
        parts = rows.gather()[0].tensor_split(len(KINDS), 1)
        results = {kind: self._means(values) for kind, values in zip(KINDS, parts, strict=True)}
        return {"chance" if kind == RANDOM else kind: values for kind, values in results.items()}

    @property
    def _held_out(self) -> bool:
        held_out = indexed(self._data.held_out)
        # Images held out of the training images have the same source.
        return self._source.source is held_out.source and np.array_equal(self._source.rows, held_out.rows)

    def _batches(self) -> Iterator[ImageBatch]:
        """The images with an object, in a pass of their own."""
        chosen = torch.tensor(list(self._masks), dtype=torch.int64)
        images = self._source.take(chosen.tolist())
        for batch in (
            self._data.batches(images, [self._data.view], "images with masks") if len(chosen) else ()
        ):
            yield batch._replace(positions=chosen[batch.positions])

    def _score(self, batch: ImageBatch, forward: Forward) -> None:
        if not (rows := batch.readable(self._source, self._masks)):
            return
        self._merge(batch, rows)
        hierarchy, index = forward.segmentation(batch.views[0]), batch.positions[rows]
        soft = [hierarchy.labels(stage, soft=True).cpu()[rows] for stage in range(len(hierarchy.stages))]
        chain = [hierarchy.labels(stage).cpu()[rows] for stage in range(len(hierarchy.stages))]
        values = self._overlaps(soft if self.soft else chain, index)
        nested = torch.stack([nestedness(*pair) for pair in pairwise(soft)] or [values[:, 0] * torch.nan])
        self._rows.add(torch.cat((values, nested.mean(0)[:, None]), 1), batch.target[rows], index)

    def _eligible(self, chosen: Sequence[int]) -> Sequence[int]:
        """Those of some positions in the source that may be measured."""
        return chosen

    def _overlaps(self, stages: Sequence[Tensor], index: Tensor) -> Tensor:
        """The measures of images by number, of the segments int64 (B, S, S) of each stage: float32 (B, M)."""
        pairs = [self._masks[image] for image in index.tolist()]
        inside, parts = (torch.stack(masks) for masks in zip(*pairs, strict=True))
        values = torch.stack([scores(labels, inside, parts) for labels in stages], 2)
        return values.transpose(0, 1).flatten(1)

    def _merge(self, batch: ImageBatch, rows: Sequence[int]) -> None:
        """Score merged superpixels, once for each image."""
        self._merged = self._merged or {}
        view, order = batch.views[0], {index: place for place, index in enumerate(self._masks)}
        for row in rows:
            if (index := int(batch.positions[row])) in self._merged:
                continue
            image, segments = denormalize(view.image[row]).cpu(), view.segments[row].cpu()
            seed = self._data.seed * 1_000_003 + order[index]
            labels = torch.cat([merge(image, segments, self.sizes, by=kind, seed=seed) for kind in KINDS])
            inside, parts = (mask.expand_as(labels) for mask in self._masks[index])
            values = scores(labels, inside, parts).view(len(MEASURES), len(KINDS), -1)
            self._merged[index] = values.transpose(0, 1).flatten()

    def _means(self, values: Tensor) -> dict[str, float]:
        """Means over the images by measure and stage; a measure without any image is left out."""
        if not len(values):
            return {}
        means = values.view(len(values), len(MEASURES), -1).transpose(0, 1).contiguous().nanmean(1)
        return {
            f"{name}_{size}": value
            for name, by_stage in zip(MEASURES, means, strict=True)
            if not bool(by_stage.isnan().any())
            for size, value in zip(self.sizes, by_stage.tolist(), strict=False)
        }


def masked_by(masks: Masks, *splits: Images) -> tuple[Images, list[int]]:
    """The first split with masked images, with these masks, and the positions of those images.

    A mask of a file of annotations is of one image of the split, see
    :class:`castssl.datasets.path_matching.FileNames`.

    Raises:
        DataError: if no split has any.
    """
    for images in splits:
        names = [images.name(index) for index in range(len(images))]
        own = masks.among(names) if isinstance(masks, Annotations) else masks
        if indices := [index for index, name in enumerate(names) if own.knows(name)]:
            masked = images.take(range(len(images)))
            masked.masks = own
            return masked, indices
    raise DataError(
        f"the masks know none of the images, such as {splits[0].name(0)}; expected the same file names, with"
        " the folders where several images have one name"
    )


def object_masks(images: Images, chosen: Iterable[int], view: CenterView) -> dict[int, tuple[Tensor, Tensor]]:
    """Object masks bool (S, S) and part masks int64 (S, S), cut as the center view, by image.

    It notes on stderr how many masks have values above 0 but none on an object, such as 0 and 1.

    Args:
        images: the images; one without a readable mask, or whose object lies outside the view, is left out.
        chosen: positions of the images to look at.
        view: the center view.

    Returns:
        A part mask has 1, 2, ... on parts, 0 elsewhere, and -1 everywhere if the parts are unknown.
    """
    masks: dict[int, tuple[Tensor, Tensor]] = {}
    dark: dict[str, int] = {}
    for index in chosen:
        mask = images.mask(index)
        gray = None if mask is None else mask.convert("L")
        inside = None if gray is None else view.crop_mask(gray) > 127
        if inside is not None and bool(inside.any()):
            parts = images.parts(index)
            unknown = torch.full(inside.shape, -1)
            masks[index] = inside, unknown if parts is None else view.crop_mask(parts).long()
        elif gray is not None and 0 < (most := int(np.asarray(gray).max())) <= 127:
            dark[images.name(index)] = most
    if dark:
        note(
            f"images left out, as their masks have no object: {len(dark)}, such as"
            f" {printable(next(iter(dark)))}. The largest value of these masks is {max(dark.values())};"
            " expected 255 on the object and 0 elsewhere. Convert masks of 0 and 1, of class numbers or with"
            " a palette"
        )
    return masks


def scores(labels: Tensor, inside: Tensor, parts: Tensor) -> Tensor:
    """The measures of :data:`MEASURES` for each image: float32 (3, B), not a number without such a mask.

    They are :func:`castssl.metrics.partition.best_overlap` of the object,
    :func:`castssl.metrics.regions.region_iou` of object and background, and the same of the parts and the
    rest.

    Args:
        labels: int64 (B, S, S), segments.
        inside: bool (B, S, S), True on the object.
        parts: int64 (B, S, S), as :func:`object_masks` returns.
    """
    objects = best_overlap(labels, inside), region_iou(labels, inside.long())
    return torch.stack((*objects, region_iou(labels, parts)))
