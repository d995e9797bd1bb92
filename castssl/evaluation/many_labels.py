"""Many labels per image: how well a subject scores the labels of held-out images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from castssl.datasets.left_out import some
from castssl.errors import ConfigError
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, ImageBatch, Subject, indexed, note
from castssl.labels import LabelTree
from castssl.metrics.multilabel import average_precisions, measures, without_positives


@dataclass(eq=False)
class ManyLabels(Evaluator):
    """Mean average precision, precision, recall and F1: see :func:`castssl.metrics.multilabel.measures`.

    The subject must predict logits of the classes of all levels; a label is predicted at a probability above
    0.5.  Each image counts once, whatever the number of processes.  Nothing is measured unless an image
    carries many labels.

    Attributes:
        average_precision: of each class in the latest evaluation: float64 (C,), not a number for a class that
            no held-out image has.
    """

    title: ClassVar[str] = "many labels"
    average_precision: Tensor = field(default_factory=lambda: torch.empty(0), init=False, repr=False)
    _tree: LabelTree = field(default_factory=LabelTree.none, init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Print the classes that no held-out image has."""
        super().prepare(data)
        images = indexed(data.held_out)
        if images.tree.exclusive:
            return
        self._tree = images.tree
        if left_out := [self._names[number] for number in without_positives(images.targets)]:
            note(
                f"{len(left_out)} of {len(self._names)} classes are in no held-out image, and left out of"
                f" means over classes: {some(left_out)}"
            )

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Keep the logits and the targets of a batch.

        Raises:
            ConfigError: if the subject learned another number of classes than the images have.
        """
        if not self._tree.levels:
            return
        logits = torch.cat(forward.logits(batch.views[0]), dim=1)
        if logits.shape[1] != sum(self._tree.sizes):
            raise ConfigError(
                f"{logits.shape[1]} labels were learned, but the held-out images have"
                f" {sum(self._tree.sizes)} in levels of {self._tree.sizes}; take held-out images of the same"
                " data set"
            )
        self._rows.add(logits, batch.target.long(), batch.positions)

    def result(self, subject: Subject) -> dict[str, float]:
        """The measures by name; none where no image has a label."""
        if not self._tree.levels:
            return {}
        logits, targets = self._rows.gather()
        self.average_precision = average_precisions(logits, targets.float())
        return measures(logits, targets.float(), self._tree, threshold=0)

    def majority(self) -> dict[str, float]:
        """The shares of images with each label, as the probabilities of every image.

        Average precision is then the share of the class's positives, as also of a ranking at random of many
        images.
        """
        if not self._tree.levels:
            return {}
        targets = indexed(self._data.held_out).targets
        present, known = (targets == 1).sum(0), (targets >= 0).sum(0)
        shares = (present / known.clamp(min=1)).expand(len(targets), -1)
        return measures(shares, targets, self._tree)

    @property
    def _names(self) -> list[str]:
        prefixes = [f"level{level}/" * (self._tree.levels > 1) for level in range(self._tree.levels)]
        pairs = zip(prefixes, level_names(self._tree), strict=True)
        return [prefix + name for prefix, names in pairs for name in names]


def level_names(tree: LabelTree) -> list[list[str]]:
    """The names of the classes of each level, or their numbers."""
    return [list(names) for names in tree.names] or [list(map(str, range(size))) for size in tree.sizes]
