"""An exam for an encoder on images that it never saw: neighbours, matching views, objects."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from castssl import ranks
from castssl.contracts import Encoder, Superpixels
from castssl.data.augment import Augment, CenterView, TwoViews
from castssl.data.finish import finish
from castssl.data.loader import Loader, load
from castssl.datasets.images import Images, scatter
from castssl.datasets.masks import open_masks
from castssl.datasets.stream import Stream
from castssl.errors import DataError
from castssl.evaluation.neighbours import Device, features, knn, match
from castssl.evaluation.objects import Pair, known_to, objects, overlaps, random_overlaps
from castssl.marks import scale
from castssl.metrics.balanced import majority
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
        voters: at most so many training images vote, drawn by ``seed``; 0 = all.
        masked: at most so many images with object masks are looked at.
        shown: images with masks; by default the held-out ones and the masks beside them.
    """

    splits: tuple[Images, Images] | None
    superpixels: Superpixels
    image_size: int
    views: Augment | None = None
    batch_size: int = 64
    workers: int = 0
    seed: int = 0
    voters: int = 0
    masked: int = 256
    shown: Images | None = None
    _pairs: list[Pair] = field(init=False, repr=False)
    _voting: Images = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.splits is not None and _classes(self.splits[0]):
            train, self._voting = self.splits[0], self._voters(self.splits[0])
            if len(self._voting) < len(train):
                _say(
                    f"kNN: {len(self._voting):,} of {len(train):,} training images vote, the same ones in"
                    " every run; --knn-images 0 takes all"
                )
        shown = self.splits[1] if self.splits and self.shown is None else self.shown
        self._pairs = [] if shown is None else objects(shown, self.image_size, limit=self.masked)

    @classmethod
    def on(
        cls,
        train: Images | Stream,
        held_out: Images | Stream | None,
        superpixels: Superpixels,
        image_size: int,
        **options: Any,
    ) -> Exam:
        """An exam on held-out images, or one without marks if there are none, or if either is a stream.

        Args:
            train: images whose features vote.
            held_out: with labels by the classes of ``train``.
            superpixels: what the encoder builds on.
            image_size: side in pixels.
            options: ``masks`` in place of the data's own, a path as :func:`castssl.datasets.masks.open_masks`
                takes it (PartImageNet annotates ImageNet's training images: if they know no held-out image,
                training images are shown); and fields of the exam.

        Raises:
            DataError: if the masks cannot be read, or belong to no image.
        """
        masks = None if (given := options.pop("masks", None)) is None else open_masks(given)
        if isinstance(train, Stream) or isinstance(held_out, Stream):
            if held_out is not None:
                _say("streams have no images by index: kNN, matching and IoU are not measured")
            held_out = None
        if held_out is None:
            return cls(None, superpixels, image_size, **options)
        assert isinstance(train, Images)
        if masks is not None:
            options["shown"] = known_to(masks, held_out, train)
            if options["shown"] is None:
                raise DataError(
                    f"the masks {given} know none of the images, such as {held_out.name(0)}; expected the"
                    " same file names"
                )
        return cls((train, held_out), superpixels, image_size, **options)

    def sit(self, encoder: Encoder, device: Device) -> dict[str, float]:
        """Marks by name, each in [0, 1].

        ``knn`` is the accuracy of the 20 nearest at the finest level (if there are labels), ``match`` how
        often one view of an image finds the other among :data:`MATCHED`.  If there are masks, each stage of K
        segments has ``object_iou_K``, the mean best overlap of a segment with the object, ``region_iou_K``,
        the mean IoU of object and background if each segment is given to one of them, and, if there are
        part masks, ``part_iou_K``, the same of the parts (:func:`castssl.evaluation.objects.overlaps`).
        """
        if self.splits is None:
            return {}
        train, held_out = self.splits
        marks = {"match": self._match(held_out, encoder, device)}
        if classes := _classes(train):
            known = self._labelled(self._voting, "training", encoder, device)
            asked = self._labelled(held_out, "held-out", encoder, device)
            if len(known[0]) and len(asked[0]):
                marks["knn"] = knn(*known, *asked, classes=classes)
        if self._pairs:
            marks |= _by_size(overlaps(encoder, self._pairs, self.superpixels, device=device), encoder.sizes)
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
            marks |= _by_size(random_overlaps(self._pairs, self.superpixels, sizes, seed=self.seed), sizes)
        return marks

    def by_majority(self) -> dict[str, float]:
        """``knn`` of the most frequent held-out class as a constant answer; nothing without known labels."""
        if self.splits is None or not _classes(self.splits[0]) or self.splits[1].targets is None:
            return {}
        shares = majority(self.splits[1].targets)
        last = self.splits[1].tree.levels - 1
        return {"knn": shares[last]} if last in shares else {}

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

    def _voters(self, train: Images) -> Images:
        """The training images that vote: those with a finest label, or a sample of them."""
        labeled = np.flatnonzero((train.targets[:, -1] >= 0).numpy())
        if not self.voters or len(labeled) <= self.voters:
            return train
        word = int(np.random.SeedSequence(self.seed).generate_state(1, np.uint64)[0])
        order = np.argsort(scatter(train.rows[labeled], word), kind="stable")
        return train.take(np.sort(labeled[order[: self.voters]]).tolist())

    def _labelled(self, images: Images, name: str, encoder: Encoder, device: Device) -> tuple[Tensor, Tensor]:
        """Features (n, D) and finest labels (n,) of the images that have such a label."""
        loader = self._loader(images)
        rows, paths = features(encoder, loader, self.superpixels, device, what=f"kNN, {name} images")
        told = paths[:, -1] >= 0
        return rows[told], paths[told, -1]

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


def _by_size(overlap: Mapping[str, Sequence[float]], sizes: Sequence[int]) -> dict[str, float]:
    """Marks of stages; an encoder that only classifies may have fewer stages than sizes."""
    return {
        f"{name}_{size}": value
        for name, values in overlap.items()
        for size, value in zip(sizes, values, strict=False)
    }


def _classes(images: Images) -> int:
    """Classes of the finest level; 0 if there is nothing to tell apart."""
    return images.tree.sizes[-1] if images.tree.levels and images.tree.sizes[-1] > 1 else 0


def _say(text: str) -> None:
    if ranks.is_main():
        print(text, file=sys.stderr)


def table(**columns: Mapping[str, float]) -> Table | str:
    """Marks side by side: a row a mark, shares in percent, a column for each subject; n/a without a value.

    Without any mark, a sentence that says so.
    """
    if not any(columns.values()):
        return "nothing was measured on held-out images"
    shown = Table(title="On held-out images, shares in %")
    shown.add_column("")
    for name in columns:
        shown.add_column(name.replace("_", " "), justify="right")
    for mark in dict.fromkeys(mark for marks in columns.values() for mark in marks):
        cells = (f"{scale(mark) * marks[mark]:.1f}" if mark in marks else "n/a" for marks in columns.values())
        shown.add_row(mark.replace("_", " "), *cells)
    return shown
