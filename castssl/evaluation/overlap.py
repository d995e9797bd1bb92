"""Overlap: do segments fit objects and parts that no label showed?  Means over images with masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, cast

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as V

from castssl.contracts import Encoder, Superpixels
from castssl.data.normalize import to_views
from castssl.data.views import resized_part, resized_size
from castssl.datasets.images import Images
from castssl.datasets.masks import Masks, open_masks
from castssl.errors import DataError
from castssl.evaluation.features import Device
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.metrics.partition import best_overlap, merge_at_random
from castssl.metrics.regions import region_iou
from castssl.modes import evaluating
from castssl.superpixel_labels import partition
from castssl.types import Batch, RawView

MASKED = 256
"""At most so many images with masks are measured."""
MEASURES = ("object_iou", "region_iou", "part_iou")


@dataclass(eq=False)
class Overlap(Evaluator):
    """How well the K segments of each stage fit the objects and parts of images with masks, in [0, 1].

    ``object_iou_K`` is the mean best overlap of a segment with the object, ``region_iou_K`` the mean IoU of
    object and background if each segment is given to one of them, and ``part_iou_K``, if there are part
    masks, the same of the parts; see :func:`overlaps`.  The images are decoded and segmented once, before
    the first evaluation, and kept in memory.  Every process measures all of them.

    Args:
        sizes: K of each stage of the encoder; one that only classifies may have fewer stages.
        masks: in place of the data's own, a path as :func:`castssl.datasets.masks.open_masks` takes it.
            (PartImageNet annotates ImageNet's training images: if masks know no held-out image, training
            images are measured.)
    """

    limit: ClassVar[int | None] = 0
    title: ClassVar[str] = "IoU"
    sizes: Sequence[int]
    masks: str | Path | None = None
    _seed: int = field(default=0, init=False, repr=False)
    _images: list[Segmented] = field(default_factory=list, init=False, repr=False)
    _device: Device = field(default="cpu", init=False, repr=False)
    shown: Images = field(init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Decode and segment the images.

        Raises:
            DataError: if the masks cannot be read, or belong to no image.
        """
        self.shown, self._device, self._seed = cast(Images, data.held_out), data.device, data.seed
        if self.masks is not None:
            known = known_to(open_masks(self.masks), self.shown, cast(Images, data.train))
            if known is None:
                raise DataError(
                    f"the masks {self.masks} know none of the images, such as {self.shown.name(0)}; expected"
                    " the same file names"
                )
            self.shown = known
        pairs = objects(self.shown, data.view.size, limit=MASKED)
        self._images = segmented(pairs, data.superpixels, device=data.device)

    def result(self, subject: Subject) -> dict[str, float]:
        """The overlaps by measure and stage; nothing without masks."""
        if not self._images:
            return {}
        return self._by_size(overlaps(subject.encoder, self._images, device=self._device))

    def chance(self) -> dict[str, float]:
        """The overlaps of superpixels merged at random."""
        if not self._images:
            return {}
        return self._by_size(random_overlaps(self._images, self.sizes, seed=self._seed))

    def _by_size(self, found: Mapping[str, Sequence[float]]) -> dict[str, float]:
        return {
            f"{name}_{size}": value
            for name, values in found.items()
            for size, value in zip(self.sizes, values, strict=False)
        }


class Pair(NamedTuple):
    """An image, and what lies where in it."""

    image: Tensor
    """uint8 (3, S, S)."""
    inside: Tensor
    """bool (S, S), True on the object."""
    parts: Tensor | None = None
    """Integer (S, S), 1, 2, ... on the object's parts and 0 elsewhere; None if unknown."""


class Masked(Protocol):
    """Images that may have an object mask: ``castssl.datasets.images.Images`` is one."""

    def __len__(self) -> int: ...
    def pair(self, index: int, /) -> tuple[Image.Image, Image.Image] | None:
        """A picture and its own mask, 255 on the object; None if it has none or one of both is unreadable."""
        ...

    def parts(self, index: int, /) -> Image.Image | None:
        """The part mask of that picture, 1, 2, ... on parts; None if it has none or it is unreadable."""
        ...


def objects(images: Masked, size: int, *, limit: int | None = None) -> list[Pair]:
    """Images with their object masks, cut alike: shorter side to ``size``, then the central square.

    Args:
        images: those that are unreadable, without a mask, or whose object lies outside the square, are left
            out.
        size: side of the square, in pixels.
        limit: look at no more images than this, spread evenly over all (folders are sorted by class).

    Returns:
        Pairs of one size, with the parts of those that have a part mask; all are held in memory.
    """
    count = len(images) if limit is None else min(limit, len(images))
    pairs = []
    for i in range(count):
        index = i * len(images) // count
        pair = images.pair(index)
        if pair is not None:
            picture, mask = pair
            inside = _square(mask.convert("L"), size, V.InterpolationMode.NEAREST)[0] > 127
            if bool(inside.any()):
                square = _square(picture.convert("RGB"), size, V.InterpolationMode.BILINEAR)
                parts = images.parts(index)
                cut = None if parts is None else _square(parts, size, V.InterpolationMode.NEAREST)[0]
                pairs.append(Pair(square, inside, cut))
    return pairs


def known_to(masks: Masks, *splits: Images) -> Images | None:
    """The images that ``masks`` know, with these masks, of the first split that has any; None if none has."""
    for images in splits:
        indices = [index for index in range(len(images)) if masks.knows(images.name(index))]
        if indices:
            chosen = images.take(indices)
            chosen.masks = masks
            return chosen
    return None


class Segmented(NamedTuple):
    """Some images with their superpixels and masks, on the CPU."""

    view: RawView
    inside: Tensor
    """bool (B, S, S), True on the object."""
    parts: Tensor
    """int64 (B, S, S), 1, 2, ... on parts, 0 elsewhere, -1 where unknown."""


def segmented(
    pairs: Iterable[Pair], superpixels: Superpixels, *, device: Device = "cpu", batch: int = 32
) -> list[Segmented]:
    """The images that have an object, with their superpixels, ``batch`` at a time.

    Args:
        pairs: square images with their masks, such as :func:`objects` gives.
        superpixels: the partition that the encoder builds on.
        device: where superpixels that run on a device do so.
        batch: images at a time.
    """
    full, batches = (pair for pair in pairs if bool(pair.inside.any())), list[Segmented]()
    while some := list(islice(full, batch)):
        images, inside = torch.stack([p.image for p in some]), torch.stack([p.inside for p in some])
        parts = [torch.full(p.inside.shape, -1) if p.parts is None else p.parts.long() for p in some]
        with torch.no_grad():
            shown = images if superpixels.runs_on == "worker" else images.to(device)
            segments = partition(superpixels, shown).cpu()
        batches.append(Segmented(RawView(images, segments), inside, torch.stack(parts)))
    return batches


def overlaps(
    encoder: Encoder, images: Iterable[Segmented], *, device: Device
) -> dict[str, tuple[float, ...]]:
    """How well an encoder's segments fit what is in the images: by measure, a number a stage, fine to coarse.

    Args:
        encoder: its ``segment`` is called if it has one (all stages), else itself, once for each image.  It
            is in evaluation mode meanwhile.
        images: with masks and superpixels.
        device: where ``encoder`` is.

    Returns:
        Means over images of ``object_iou`` (:func:`castssl.metrics.partition.best_overlap`), of
        ``region_iou`` (:func:`castssl.metrics.regions.region_iou` of object and background), and of
        ``part_iou`` (the same of the parts and what is none), if any image has part masks.

    Raises:
        DataError: if there is no image.
    """
    scores = []
    with evaluating(encoder), torch.no_grad():
        for raw, inside, parts in images:
            batch = Batch([raw], torch.empty(len(inside), 0, dtype=torch.int64))
            hierarchy = encoder.segment(to_views(batch, device=device).views[0])
            labels = [hierarchy.labels(stage).cpu() for stage in range(len(hierarchy.stages))]
            scores.append(torch.stack([_scores(each, inside, parts) for each in labels], 2))
    return _mean(scores)


def random_overlaps(
    images: Iterable[Segmented], sizes: Sequence[int], *, seed: int = 0
) -> dict[str, tuple[float, ...]]:
    """:func:`overlaps` without an encoder: superpixels merged at random, a number for each of ``sizes``.

    Raises:
        DataError: if there is no image.
    """
    scores = []
    each = (one for raw, *masks in images for one in zip(raw.segments, *masks, strict=True))
    for number, (segments, inside, parts) in enumerate(each):
        merged = torch.stack([merge_at_random(segments, size, seed * 1_000_003 + number) for size in sizes])
        scores.append(_scores(merged, inside.expand_as(merged), parts.expand_as(merged)).unsqueeze(1))
    return _mean(scores)


def _scores(labels: Tensor, inside: Tensor, parts: Tensor) -> Tensor:
    """Float32 (len(MEASURES), B); not a number where a measure has nothing to go by."""
    found = (best_overlap(labels, inside), region_iou(labels, inside.long()), region_iou(labels, parts))
    return torch.stack(found)


def _square(image: Image.Image, size: int, mode: V.InterpolationMode) -> Tensor:
    """uint8 (C, size, size)."""
    left, top = (round((side - size) / 2) for side in resized_size(image.size, size))
    part = resized_part(image, size, (left, top, left + size, top + size), mode)
    cut: Tensor = V.pil_to_tensor(part)
    return cut


def _mean(scores: list[Tensor]) -> dict[str, tuple[float, ...]]:
    """Means over images of (measures, images, stages), without those that have nothing to go by."""
    if not scores:
        raise DataError(
            "no image has an object mask, so overlap cannot be measured; expected masks beside the images"
        )
    means = torch.cat(scores, 1).nanmean(1)
    return {
        name: tuple(mean.tolist())
        for name, mean in zip(MEASURES, means, strict=True)
        if not bool(mean.isnan().any())
    }
