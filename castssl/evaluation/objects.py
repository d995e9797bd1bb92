"""Do segments find objects that nobody showed them?  Mean best overlap over images with masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as V

from castssl.contracts import Encoder, Superpixels
from castssl.data.finish import finish
from castssl.errors import DataError
from castssl.evaluation.neighbours import Device
from castssl.evaluation.segment import best_overlap, merge_at_random
from castssl.modes import evaluating
from castssl.types import Batch, Hierarchy, RawView, View

Pair = tuple[Tensor, Tensor]
"""An image, uint8 (3, S, S), and its object mask, bool (S, S)."""


class Masked(Protocol):
    """Images that may have an object mask: ``castssl.data.images.Images`` is one."""

    def __len__(self) -> int: ...
    def pair(self, index: int, /) -> tuple[Image.Image, Image.Image] | None:
        """A picture and its own mask, 255 on the object; None if it has none or one of both is unreadable."""
        ...


def objects(images: Masked, size: int, *, limit: int | None = None) -> list[Pair]:
    """Images with their object masks, cut alike: shorter side to ``size``, then the central square.

    Args:
        images: those that are unreadable, without a mask, or whose object lies outside the square, are left
            out.
        size: side of the square, in pixels.
        limit: look at no more images than this, spread evenly over all (folders are sorted by class).

    Returns:
        Pairs of uint8 (3, size, size) and bool (size, size); all are held in memory.
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
                pairs.append((square, inside))
    return pairs


def mean_overlap(
    encoder: Encoder, pairs: Iterable[Pair], superpixels: Superpixels, *, device: Device, batch: int = 32
) -> tuple[float, ...]:
    """How well one segment covers the object: best IoU, mean over images, a number a stage, fine to coarse.

    Args:
        encoder: its ``segment`` is asked if it has one (all stages), else itself.  It is in evaluation
            mode meanwhile.
        pairs: uint8 (3, S, S) images and bool (S, S) masks, such as :func:`objects` gives.
        superpixels: the partition the encoder builds on.
        device: where ``encoder`` is.
        batch: images at a time.

    Raises:
        DataError: if no pair has an object.
    """
    segment: Callable[[View], Hierarchy] = getattr(encoder, "segment", encoder)
    scores = []
    with evaluating(encoder), torch.no_grad():
        for images, masks in _batches(pairs, batch):
            hierarchy = segment(_view(images, superpixels, device))
            labels = [hierarchy.labels(stage) for stage in range(len(hierarchy.stages))]
            scores.append(torch.stack([best_overlap(each.cpu(), masks) for each in labels], 1))
    return _mean(scores)


def random_overlap(
    pairs: Iterable[Pair],
    superpixels: Superpixels,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    device: Device = "cpu",
) -> tuple[float, ...]:
    """:func:`mean_overlap` without an encoder: superpixels merged at random, a number for each of ``sizes``.

    Raises:
        DataError: if no pair has an object.
    """
    scores = []
    for i, (images, masks) in enumerate(_batches(pairs, 1)):
        segments = superpixels(images.to(device))[0].cpu()
        merged = [merge_at_random(segments, size, seed * 1_000_003 + i) for size in sizes]
        scores.append(best_overlap(torch.stack(merged), masks.expand(len(sizes), -1, -1))[None])
    return _mean(scores)


def _square(image: Image.Image, size: int, mode: V.InterpolationMode) -> Tensor:
    """uint8 (C, size, size)."""
    cut: Tensor = V.pil_to_tensor(V.center_crop(V.resize(image, size, interpolation=mode), size))
    return cut


def _batches(pairs: Iterable[Pair], size: int) -> Iterator[Pair]:
    """Pairs that have an object, stacked ``size`` at a time."""
    full = (pair for pair in pairs if bool(pair[1].any()))
    while some := list(islice(full, size)):
        yield torch.stack([image for image, _ in some]), torch.stack([mask for _, mask in some])


def _view(images: Tensor, superpixels: Superpixels, device: Device) -> View:
    worker = superpixels.runs_on == "worker"
    segments = superpixels(images) if worker else torch.empty(len(images), 0, 0, dtype=torch.int32)
    target = torch.empty(len(images), 0, dtype=torch.int64)
    return finish(Batch([RawView(images, segments)], target), superpixels, device).views[0]


def _mean(scores: list[Tensor]) -> tuple[float, ...]:
    if not scores:
        raise DataError(
            "no image has an object mask, so overlap cannot be measured; expected masks beside the images"
        )
    return tuple(torch.cat(scores).mean(0).tolist())
