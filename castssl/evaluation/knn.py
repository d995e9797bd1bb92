"""kNN accuracy: classification by a vote of nearest neighbors in the space of frozen features.

The vote is that of Wu et al. 2018, "Unsupervised feature learning via non-parametric instance
discrimination", https://arxiv.org/abs/1805.01978, section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import Tensor

from castssl.datasets.images import Images, hash_index
from castssl.evaluation.features import Device, Features, blocks, check_rows, unit
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, ImageBatch, Subject, indexed, note
from castssl.metrics.balanced import majority


@dataclass(eq=False)
class Knn(Evaluator):
    """``knn``: the accuracy of the 20 nearest training images at the finest level, in [0, 1].

    Images without a label at that level neither vote nor count.  Nothing is measured with a single class.

    Args:
        voters: at most so many training images vote, drawn by the evaluation's seed; 0 = all.
    """

    title: ClassVar[str] = "kNN"
    voters: int = 0
    _classes: int = field(default=0, init=False, repr=False)
    _voting: Images = field(init=False, repr=False)
    _bank: tuple[Tensor, Tensor] = field(init=False, repr=False)
    _rows: Features = field(init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Draw the training images that vote."""
        super().prepare(data)
        train = indexed(data.train)
        self._classes = train.tree.sizes[-1] if train.tree.levels else 0
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
        bank, self._rows = Features(self._data.device), Features(self._data.device)
        augment = self.views or self._data.view
        for batch in self._data.batches(self._voting, [augment], "kNN, training images"):
            bank.add(Forward(subject).feature(batch.views[0]), batch.target, batch.positions)
        self._bank = _labeled(bank)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Keep the features of a batch."""
        if self._classes > 1:
            self._rows.add(forward.feature(batch.views[0]), batch.target, batch.positions)

    def result(self, subject: Subject) -> dict[str, float]:
        """``knn``, unless no training image or no held-out image has a label."""
        if self._classes < 2:
            return {}
        rows = _labeled(self._rows)
        if not len(self._bank[0]) or not len(rows[0]):
            return {}
        return {"knn": knn(*self._bank, *rows, classes=self._classes)}

    def chance(self) -> dict[str, float]:
        """1 / number of classes."""
        return {"knn": 1 / self._classes} if self._classes > 1 else {}

    def majority(self) -> dict[str, float]:
        """The share of the most frequent class."""
        last = self._data.tree.levels - 1
        share = majority(self._data.labels()).get(last) if self._classes > 1 else None
        return {} if share is None else {"knn": share}

    def _drawn(self, train: Images) -> Images:
        """The training images that vote: those with a finest label, or a sample of them."""
        labeled = np.flatnonzero((train.targets[:, -1] >= 0).numpy())
        if not self.voters or len(labeled) <= self.voters:
            return train
        word = int(np.random.SeedSequence(self._data.seed).generate_state(1, np.uint64)[0])
        order = np.argsort(hash_index(train.rows[labeled], word), kind="stable")
        return train.take(np.sort(labeled[order[: self.voters]]).tolist())


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    classes: int,
    device: Device | None = None,
) -> float:
    """The share of test rows whose class wins the weighted vote of their ``k`` nearest train rows.

    A neighbor's vote weighs exp(cosine / temperature), relative to the nearest one's, so that no temperature
    overflows.  Where two classes have equal votes, the lower number wins.  Rows are compared a block at a
    time: 1.28 million train and 50,000 test rows need no more than the train rows and
    :data:`castssl.evaluation.features.CELLS` cells.
    No communication: any one rank may call it.

    Args:
        train_features: float (n, D), of any length.
        train_labels: int64 (n,), one level of the label path.
        test_features: float (m, D).
        test_labels: int64 (m,), of the same level.
        k: how many neighbors vote; all of them if there are fewer train rows.
        temperature: above 0; small values let the nearest decide.
        classes: how many classes the level has.
        device: where to compare; where the train rows are if None.

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
    bank = unit(train_features, device).T
    votes = train_labels.to(bank.device)
    neighbors = min(k, len(votes))
    right = 0
    for some in blocks(len(test_labels), max(len(votes), classes)):
        rows = unit(test_features[some], bank.device)
        cosines, nearest = (rows @ bank).topk(neighbors, dim=1)
        # A softmax, not exp: exp(1 / 0.01) is beyond float32.
        weights = (cosines / temperature).softmax(1)
        voted = weights.new_zeros(len(rows), classes).scatter_add_(1, votes[nearest], weights).argmax(1)
        right += int((voted.cpu() == test_labels[some].cpu()).sum())
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
            f"{name}: expected one label a row, ({len(rows)},), got {tuple(labels.shape)};"
            f" choose a level of the path, labels[:, -1] for the finest"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"{name}: expected labels in [0, {classes}), got {int(labels.min())} to {int(labels.max())}"
        )
