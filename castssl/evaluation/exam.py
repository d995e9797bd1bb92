"""An exam for an encoder on images that it never saw: neighbours, matching views, objects."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from castssl import ranks
from castssl.contracts import Encoder, Superpixels
from castssl.data.augment import Augment, CenterView, TwoViews
from castssl.data.finish import finish
from castssl.data.images import Images, open_images
from castssl.data.loader import Loader, load
from castssl.data.readers import Stream
from castssl.errors import DataError
from castssl.evaluation.neighbours import Device, features, knn, match
from castssl.evaluation.objects import Pair, mean_overlap, objects, random_overlap
from castssl.marks import scale
from castssl.modes import evaluating

MATCHED = 256
"""How many held-out images look for their own other view."""


@dataclass
class Exam:
    """What is asked, prepared once; every rank must sit it together.

    Args:
        splits: the images whose features vote, and those of another split, which are judged; None: there
            are no marks.
        superpixels: what the encoder builds on.
        image_size: side in pixels.
        views: how an image becomes the two views that are to match; by default MoCo v3's.
        batch_size: images at a time and rank.
        workers: data-loading processes a rank.
        seed: of the two views and of the random merging.
        masked: at most so many held-out images with object masks are looked at.
    """

    splits: tuple[Images, Images] | None
    superpixels: Superpixels
    image_size: int
    views: Augment | None = None
    batch_size: int = 64
    workers: int = 0
    seed: int = 0
    masked: int = 256
    _pairs: list[Pair] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._pairs = objects(self.splits[1], self.image_size, limit=self.masked) if self.splits else []

    @classmethod
    def on(
        cls, data: str, train: Images | Stream, superpixels: Superpixels, image_size: int, **options: Any
    ) -> Exam:
        """An exam on the ``val`` split of a data set, or one without marks if it has none.

        Args:
            data: the spec that ``train`` was opened with.
            train: images whose features vote.
            superpixels: what the encoder builds on.
            image_size: side in pixels.
            options: ``subset`` of :func:`castssl.data.images.open_images`, and fields of the exam.
        """
        subset, splits = options.pop("subset", None), None
        try:
            held_out = open_images(data, split="val", subset=subset)
            if isinstance(train, Stream) or isinstance(held_out, Stream):
                raise DataError(f"{data} is a stream, which cannot be looked up by index")
            held_out.bad = train.bad  # One list of all unreadable images, which the run looks at.
            splits = (train, held_out)
        except DataError as error:
            if ranks.is_main():
                warnings.warn(f"no examination on held-out images: {error}", stacklevel=2)
        return cls(splits, superpixels, image_size, **options)

    def sit(self, encoder: Encoder, device: Device) -> dict[str, float]:
        """Marks by name, each in [0, 1].

        ``knn`` is the accuracy of the 20 nearest at the finest level (if there are labels), ``match`` how
        often one view of an image finds the other among :data:`MATCHED`, and ``object_iou_K`` the mean best
        overlap of the stage of K segments with the object masks (if there are masks).
        """
        if self.splits is None:
            return {}
        train, held_out = self.splits
        marks = {"match": self._match(held_out, encoder, device)}
        if classes := _classes(train):
            known, known_paths = features(encoder, self._loader(train), self.superpixels, device)
            asked, asked_paths = features(encoder, self._loader(held_out), self.superpixels, device)
            marks["knn"] = knn(known, known_paths[:, -1], asked, asked_paths[:, -1], classes=classes)
        if self._pairs:
            overlaps = mean_overlap(encoder, self._pairs, self.superpixels, device=device)
            # The first stage of an encoder that pools is the superpixels themselves.
            marks |= {f"object_iou_{k}": o for k, o in zip(encoder.sizes, overlaps, strict=False)}
        return marks

    def by_chance(self, sizes: tuple[int, ...]) -> dict[str, float]:
        """The same marks for who knows nothing: guessing, and superpixels merged at random into ``sizes``."""
        if self.splits is None:
            return {}
        train, held_out = self.splits
        marks = {"match": 1 / min(MATCHED, len(held_out))}
        if classes := _classes(train):
            marks["knn"] = 1 / classes
        if self._pairs:
            overlaps = random_overlap(self._pairs, self.superpixels, sizes, seed=self.seed)
            marks |= {f"object_iou_{k}": o for k, o in zip(sizes, overlaps, strict=True)}
        return marks

    def _loader(self, images: Images) -> Loader:
        return load(
            images,
            views=CenterView(self.image_size),
            superpixels=self.superpixels,
            batch_size=self.batch_size * ranks.world(),
            workers=self.workers,
            seed=self.seed,
            train=False,
        )

    def _match(self, held_out: Images, encoder: Encoder, device: Device) -> float:
        step = max(len(held_out) // MATCHED, 1)
        loader = load(
            held_out.take(range(0, len(held_out), step)[:MATCHED]),
            views=self.views or TwoViews(self.image_size),
            superpixels=self.superpixels,
            batch_size=self.batch_size,
            workers=self.workers,
            seed=self.seed,
            train=False,
            rank=0,
            world=1,
        )
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        # Every rank looks at all of them: a few images are cheaper than an exchange of features.
        with evaluating(encoder), torch.no_grad():
            for raw in loader:
                for rows, view in zip(found, finish(raw, self.superpixels, device).views, strict=True):
                    rows.append(encoder(view).stages[-1].cls.squeeze(1).float())
        return match(torch.cat(found[0]), torch.cat(found[1]))


def _classes(images: Images) -> int:
    """Classes of the finest level; 0 if there is nothing to tell apart."""
    return images.tree.sizes[-1] if images.tree.levels and images.tree.sizes[-1] > 1 else 0


def table(**columns: Mapping[str, float]) -> Table:
    """Marks side by side: a row a mark, shares in percent, a column whoever sat the exam."""
    shown = Table(title="On held-out images, shares in %")
    shown.add_column("")
    for name in columns:
        shown.add_column(name.replace("_", " "), justify="right")
    for mark in dict.fromkeys(mark for marks in columns.values() for mark in marks):
        cells = (f"{scale(mark) * marks[mark]:.1f}" if mark in marks else "-" for marks in columns.values())
        shown.add_row(mark.replace("_", " "), *cells)
    return shown
