"""Metrics for unbalanced images: balanced accuracy, and the share of the most frequent class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def shares_of(labels: Tensor) -> list[float]:
    """The shares of the classes that occur, the largest first: the first is what a constant answer scores.

    Args:
        labels: int64 (n,); -1 is unknown and does not count.
    """
    counts = labels[labels >= 0].bincount()
    return [count / int(counts.sum()) for count in sorted(counts.tolist(), reverse=True) if count]


class BalancedAccuracy(Metric):
    """The mean over the classes that occur of the share of their images that are right: a float32 scalar.

    Not a number without a labeled image.  A class that no image belongs to does not count.

    Args:
        classes: how many there are.
        options: of :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, classes: int, **options: Any) -> None:
        super().__init__(**options)
        for name in ("right", "total"):
            self.add_state(name, torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            predicted: int64 (B,).
            target: int64 (B,); -1 is unknown.
            valid: bool (B,), False for rows that only fill the batch.

        Raises:
            ValueError: if the shapes differ.
        """
        if predicted.shape != target.shape or target.dim() != 1:
            raise ValueError(
                f"BalancedAccuracy: expected classes (B,) of one length, got {tuple(predicted.shape)} and"
                f" {tuple(target.shape)}"
            )
        counted = target >= 0 if valid is None else (target >= 0) & valid
        classes = target.clamp(min=0)
        self.right = self.right.index_add(0, classes, ((predicted == target) & counted).long())
        self.total = self.total.index_add(0, classes, counted.long())

    def compute(self) -> Tensor:
        """float32 scalar."""
        occurs = self.total > 0
        return (self.right / self.total.clamp(min=1)).sum() / occurs.sum()
