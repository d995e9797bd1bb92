"""Do segments find objects and parts that nobody showed them?  Mean overlap over images with masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as V

from castssl.contracts import Encoder, Superpixels
from castssl.data.augment import resized_part, resized_size
from castssl.data.finish import finish
from castssl.datasets.images import Images
from castssl.datasets.masks import Masks
from castssl.errors import DataError
from castssl.evaluation.neighbours import Device
from castssl.metrics.partition import best_overlap, merge_at_random
from castssl.metrics.regions import region_iou
from castssl.modes import evaluating
from castssl.partition import partition
from castssl.types import Batch, Hierarchy, RawView, View


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


def overlaps(
    encoder: Encoder, pairs: Iterable[Pair], superpixels: Superpixels, *, device: Device, batch: int = 32
) -> dict[str, tuple[float, ...]]:
    """How well an encoder's segments fit what is in the images: by measure, a number a stage, fine to coarse.

    Args:
        encoder: its ``segment`` is asked if it has one (all stages), else itself, once for each image.  It is
            in evaluation mode meanwhile.
        pairs: square images with their masks, such as :func:`objects` gives.
        superpixels: the partition the encoder builds on.
        device: where ``encoder`` is.
        batch: images at a time.

    Returns:
        Means over images of ``object_iou`` (:func:`castssl.metrics.partition.best_overlap`), of
        ``region_iou`` (:func:`castssl.metrics.regions.region_iou` of object and background), and of
        ``part_iou`` (the same of the parts and what is none), if any image has part masks.

    Raises:
        DataError: if no pair has an object.
    """
    segment: Callable[[View], Hierarchy] = getattr(encoder, "segment", encoder)
    scores = []
    with evaluating(encoder), torch.no_grad():
        for images, inside, parts in _batches(pairs, batch):
            hierarchy = segment(_view(images, superpixels, device))
            labels = [hierarchy.labels(stage).cpu() for stage in range(len(hierarchy.stages))]
            scores.append(torch.stack([_scores(each, inside, parts) for each in labels], 2))
    return _mean(scores)


def random_overlaps(
    pairs: Iterable[Pair],
    superpixels: Superpixels,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    device: Device = "cpu",
) -> dict[str, tuple[float, ...]]:
    """:func:`overlaps` without an encoder: superpixels merged at random, a number for each of ``sizes``.

    Raises:
        DataError: if no pair has an object.
    """
    scores = []
    for i, (image, inside, parts) in enumerate(_batches(pairs, 1)):
        segments = partition(superpixels, image.to(device))[0].cpu()
        merged = torch.stack([merge_at_random(segments, size, seed * 1_000_003 + i) for size in sizes])
        scores.append(_scores(merged, inside.expand_as(merged), parts.expand_as(merged)).unsqueeze(1))
    return _mean(scores)


MEASURES = ("object_iou", "region_iou", "part_iou")


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


def _batches(pairs: Iterable[Pair], size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images, insides and parts (int64, -1 where unknown) of those with an object, ``size`` at a time."""
    full = (pair for pair in pairs if bool(pair.inside.any()))
    while some := list(islice(full, size)):
        images, inside, parts = zip(*some, strict=True)
        known = (
            torch.full(at.shape, -1) if each is None else each for each, at in zip(parts, inside, strict=True)
        )
        yield torch.stack(images), torch.stack(inside), torch.stack([each.long() for each in known])


def _view(images: Tensor, superpixels: Superpixels, device: Device) -> View:
    worker = superpixels.runs_on == "worker"
    segments = partition(superpixels, images) if worker else torch.empty(len(images), 0, 0, dtype=torch.int32)
    target = torch.empty(len(images), 0, dtype=torch.int64)
    return finish(Batch([RawView(images, segments)], target), superpixels, device).views[0]


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
