"""kNN accuracy: classification by a vote of nearest neighbors in the space of frozen features.

The vote is that of Wu et al. 2018, "Unsupervised feature learning via non-parametric instance
discrimination", https://arxiv.org/abs/1805.01978, section 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from castssl.data.hash_index import hash_index
from castssl.datasets.images import Images
from castssl.evaluation.features import Features, blocks, check_rows, largest, unit
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, ImageBatch, Subject, indexed, note
from castssl.metrics.balanced import shares_of

SIDE = 16
"""Of the images whose pixels are compared."""


class Votes(NamedTuple):
    """The features of the training images that vote, and those of held-out images."""

    bank: Features
    rows: Features

    def accuracy(self, classes: int) -> dict[str, float]:
        """``knn``, unless no training image or no held-out image has a label."""
        bank, rows = _labeled(self.bank), _labeled(self.rows)
        return {"knn": knn(*bank, *rows, classes=classes)} if len(bank[0]) and len(rows[0]) else {}


@dataclass(eq=False)
class Knn(Evaluator):
    """``knn``: the accuracy of the 20 nearest training images at the finest level, in [0, 1].

    Images without a label at that level neither vote nor count.  Nothing is measured with a single class, of
    images with many labels, or where a split has no label levels.
    The first evaluation also measures the pixels of the images, averaged to :data:`SIDE` x :data:`SIDE`.

    Args:
        voters: at most so many training images vote, drawn by the evaluation's seed; 0 = all.
    """

    title: ClassVar[str] = "kNN"
    voters: int = 0
    _classes: int = field(default=0, init=False, repr=False)
    _voting: Images = field(init=False, repr=False)
    _features: Votes = field(init=False, repr=False)
    _pixels: Votes | None = field(default=None, init=False, repr=False)
    _by_pixels: dict[str, float] | None = field(default=None, init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Draw the training images that vote."""
        super().prepare(data)
        train = indexed(data.train)
        labeled = train.tree.levels and train.tree.exclusive and data.tree.levels
        self._classes = train.tree.sizes[-1] if labeled else 0
        self._voting = self._drawn(train) if self._classes > 1 else train
        if len(self._voting) < len(train):
            note(
                f"kNN: {len(self._voting):,} of {len(train):,} training images vote, the same ones in"
                " every run; --knn-images 0 takes all"
            )

    def begin(self, subject: Subject) -> None:
        """Compute the features of the training images that vote."""
        if self._classes < 2:
            return
        self._features = self._votes()
        self._pixels = self._votes() if self._by_pixels is None else None
        for batch in self._batches(self._voting, "kNN, training images"):
            self._features.bank.add(Forward(subject).feature(batch.views[0]), batch.target, batch.positions)
            if self._pixels:
                self._pixels.bank.add(thumbnails(batch), batch.target, batch.positions)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Keep the features of a batch."""
        if self._classes > 1:
            self._features.rows.add(forward.feature(batch.views[0]), batch.target, batch.positions)
            if self._pixels:
                self._pixels.rows.add(thumbnails(batch), batch.target, batch.positions)

    def result(self, subject: Subject) -> dict[str, float]:
        """``knn``, unless no training image or no held-out image has a label."""
        if self._classes < 2:
            return {}
        if self._pixels:
            self._by_pixels = self._pixels.accuracy(self._classes)
        return self._features.accuracy(self._classes)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Those of all evaluators, and the pixels'."""
        if self._by_pixels is None and self._classes > 1:
            self._pixels = votes = self._votes()
            for images, features in zip((self._voting, indexed(self._data.held_out)), votes, strict=True):
                for batch in self._batches(images, "kNN, pixels"):
                    features.add(thumbnails(batch), batch.target, batch.positions)
            self._by_pixels = votes.accuracy(self._classes)
        return {"pixels": self._by_pixels or {}} | super().baselines()

    def chance(self) -> dict[str, float]:
        """1 / number of classes."""
        return {"knn": 1 / self._classes} if self._classes > 1 else {}

    def majority(self) -> dict[str, float]:
        """The share of the most frequent class."""
        shares = shares_of(self._data.labels()[:, -1]) if self._classes > 1 else ()
        return {"knn": shares[0]} if shares else {}

    def _votes(self) -> Votes:
        return Votes(Features(self._data.device), Features(self._data.device))

    def _batches(self, images: Images, what: str) -> Iterator[ImageBatch]:
        return self._data.batches(images, [self.views or self._data.view], what)

    def _drawn(self, train: Images) -> Images:
        """The training images that vote: those with a finest label, or a sample of them."""
        labeled = np.flatnonzero((train.targets[:, -1] >= 0).numpy())
        if not self.voters or len(labeled) <= self.voters:
            return train
        word = int(np.random.SeedSequence(self._data.seed).generate_state(1, np.uint64)[0])
        order = np.argsort(hash_index(train.rows[labeled], word), kind="stable")
        return train.take(np.sort(labeled[order[: self.voters]]).tolist())


def thumbnails(batch: ImageBatch) -> Tensor:
    """The pixels of the first view, averaged to :data:`SIDE` x :data:`SIDE`: float32 (B, D)."""
    return F.adaptive_avg_pool2d(batch.views[0].image, SIDE).flatten(1)


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    classes: int,
) -> float:
    """The share of test rows whose class wins the weighted vote of their ``k`` nearest train rows.

    A neighbor's vote weighs exp(cosine / temperature), relative to the nearest one's, so that no temperature
    overflows.  Of train rows that are equally near, the first ones vote; where two classes have equal votes,
    the lower number wins.  Rows are compared a block at a time: 1.28 million train and 50,000 test rows need
    no more than the train rows and three times :data:`castssl.evaluation.features.CELLS` cells.
    No communication: any one rank may call it.

    Args:
        train_features: float (n, D), of any length.
        train_labels: int64 (n,), one level of the label path.
        test_features: float (m, D).
        test_labels: int64 (m,), of the same level.
        k: how many neighbors vote; all of them if there are fewer train rows.
        temperature: above 0; small values let the nearest decide.
        classes: how many classes the level has.

    Returns:
        A top-1 accuracy in [0, 1].

    Raises:
        ValueError: if shapes disagree, there are no rows, a label is not in [0, classes), a feature is not
            finite, or ``k`` or ``temperature`` is out of range.
    """
    if k < 1 or not temperature > 0:
        raise ValueError(f"knn: expected k of 1 or more and a temperature above 0, got {k} and {temperature}")
    _check("knn train", train_features, train_labels, classes)
    _check("knn test", test_features, test_labels, classes)
    bank, votes = unit(train_features).T, train_labels
    neighbors = min(k, len(votes))
    right = 0
    for some in blocks(len(test_labels), max(len(votes), classes)):
        rows = unit(test_features[some])
        cosines, nearest = largest(rows @ bank, neighbors)
        # A softmax, not exp: exp(1 / 0.01) is beyond float32.
        weights = (cosines / temperature).softmax(1)
        voted = weights.new_zeros(len(rows), classes).scatter_add_(1, votes[nearest], weights).argmax(1)
        right += int((voted == test_labels[some]).sum())
    return right / len(test_labels)


def _labeled(rows: Features) -> tuple[Tensor, Tensor]:
    """Features (n, D) and finest labels (n,) of the images that have such a label."""
    features, paths = rows.gather()
    labeled = paths[:, -1] >= 0
    return features[labeled], paths[labeled, -1]


def _check(name: str, rows: Tensor, labels: Tensor, classes: int) -> None:
    check_rows(name, rows)
    if labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{name}: expected one label per row, ({len(rows)},), got {tuple(labels.shape)};"
            f" choose a level of the path, labels[:, -1] for the finest"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"{name}: expected labels in [0, {classes}), got {int(labels.min())} to {int(labels.max())}"
        )
