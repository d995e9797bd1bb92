"""Accuracy at one label level: the share of held-out images whose class is predicted."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan, nan
from typing import ClassVar

from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from castssl.errors import ConfigError
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, ImageBatch, Subject
from castssl.metrics.balanced import BalancedAccuracy, shares_of

TOP = (1, 5)


@dataclass(eq=False)
class Accuracy(Evaluator):
    """``top1``, ``top5`` where there are more than five classes, and ``top1_balanced``, in [0, 1].

    The subject must predict the logits of this level only.  Images without a label at the level do not
    count; if none has one, nothing is measured.

    Args:
        level: the label level; -1 is the finest.
    """

    by_index: ClassVar[bool] = False
    title: ClassVar[str] = "accuracy"
    level: int = -1
    _classes: int = field(default=0, init=False, repr=False)
    _meters: dict[str, Metric] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Keep the data."""
        super().prepare(data)
        self._classes = data.tree.sizes[self.level] if data.tree.levels else 0

    def begin(self, subject: Subject) -> None:
        """Count anew."""
        if not self._tops:
            return
        meters = {
            f"top{top}": MulticlassAccuracy(
                self._classes, top_k=top, average="micro", ignore_index=-1, validate_args=False
            )
            for top in self._tops
        }
        self._meters = {**meters, "top1_balanced": BalancedAccuracy(self._classes)}
        for meter in self._meters.values():
            meter.to(self._data.device)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Count a batch.

        Raises:
            ConfigError: if the subject learned another number of classes than the images have.
        """
        if not self._tops:
            return
        (logits,) = forward.logits(batch.views[0])
        if logits.shape[1] != self._classes:
            raise ConfigError(
                f"{logits.shape[1]} classes were learned, but the held-out images have {self._classes};"
                " train/ and val/ must have the same folders"
            )
        labels = batch.target[:, self.level]
        for name, meter in self._meters.items():
            meter.update(logits.argmax(1) if name == "top1_balanced" else logits, labels)

    def result(self, subject: Subject) -> dict[str, float]:
        """The accuracies; none where no image has a label."""
        results = {name: float(meter.compute()) for name, meter in self._meters.items()}
        # torchmetrics gives 0 for an accuracy over no image, and the balanced one is not a number.
        return {} if isnan(results.get("top1_balanced", nan)) else results

    def chance(self) -> dict[str, float]:
        """k of all classes."""
        levels = {f"top{top}": top / self._classes for top in self._tops}
        return levels | ({"top1_balanced": 1 / self._classes} if levels else {})

    def majority(self) -> dict[str, float]:
        """Of the k most frequent classes."""
        if not self._tops:
            return {}
        shares = shares_of(self._data.labels()[:, self.level])
        results = {f"top{top}": sum(shares[:top]) for top in self._tops}
        return results | {"top1_balanced": 1 / len(shares)} if shares else {}

    @property
    def _tops(self) -> tuple[int, ...]:
        """Each k of top-k accuracy that is below the number of classes."""
        return tuple(top for top in TOP if top < self._classes)
