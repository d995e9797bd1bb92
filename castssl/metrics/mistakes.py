"""How bad mistakes are: how far up the label tree a wrong class meets the right one.

Making Better Mistakes: Leveraging Class Hierarchies with Deep Networks, https://arxiv.org/abs/1912.09393.
Heights are those of the lowest common ancestor, in label levels: 0 for the right class, 1 for its sibling, L
for a class that shares none of the L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from castssl.labels import LabelTree
from castssl.metrics.hierarchy import PathMetric


class TreeMetric(PathMetric):
    """What metrics of finest classes in a tree share: heights.

    A prediction that is not a class (such as -1, "not sure") shares no level with any.
    """

    def height(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The height of the lowest common ancestor: int64, 0 (the same) to L (the root).

        Args:
            predicted: int64, predicted finest classes of any shape.
            target: int64, right ones, of a shape that broadcasts with it.
        """
        last = self.sizes[-1] - 1
        # In a tree, paths that share a class share all classes above it.
        same = self.paths[predicted.clamp(0, last)] == self.paths[target.clamp(0, last)]
        exists = ((predicted >= 0) & (predicted <= last)).unsqueeze(-1)
        return len(self.sizes) - (same & exists).sum(-1)


class MistakeSeverity(TreeMetric):
    """The mean height of wrong finest classes: a float32 scalar in [1, L].

    The mean is over the mistakes alone, so fewer but worse mistakes raise it; not a number without mistakes.
    Counts the images whose finest label is known, and looks at the finest prediction only.
    """

    higher_is_better = False
    states = ("heights", "mistakes")

    def terms(self, predicted: Tensor, target: Tensor, labeled: Tensor) -> tuple[Tensor, Tensor]:
        """Heights of wrong finest classes, and their number."""
        wrong = labeled[:, -1] & (predicted[:, -1] != target[:, -1])
        return (self.height(predicted[:, -1], target[:, -1]) * wrong).sum(), wrong.sum()


class HierarchicalDistance(TreeMetric):
    """The mean height of the k likeliest finest classes, the right one (0) included: float32 (K,).

    Counts the images whose finest label is known.  With one k it is a scalar, as torchmetrics has it.

    Attributes:
        top_k: each k.

    Args:
        tree: the label tree.
        top_k: each k; those that are not below the number of finest classes are left out.
        options: of :class:`torchmetrics.Metric`.
    """

    higher_is_better = False
    states = ("heights", "total")
    heights: Tensor
    total: Tensor
    among: Tensor

    def __init__(self, tree: LabelTree, top_k: Sequence[int] = (1, 5, 20), **options: Any) -> None:
        self.top_k = tuple(k for k in top_k if tree.levels and 0 < k < tree.sizes[-1])
        super().__init__(tree, **options)
        self.register_buffer("among", torch.tensor(self.top_k, dtype=torch.int64), persistent=False)

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A sum of heights for each k, and the number of images."""
        return (len(self.top_k),), ()

    def update(self, scores: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            scores: float (B, C), logits or probabilities of the finest level.
            target: int64 (B, L); -1 is unknown.
            valid: bool (B,), False for rows that only fill the batch.

        Raises:
            ValueError: if shapes or dtypes are others.
        """
        labeled = self.labeled(scores, target, valid)[:, -1]
        if scores.dim() != 2 or scores.shape[1] != self.sizes[-1]:
            raise ValueError(
                f"HierarchicalDistance: scores must be (B, {self.sizes[-1]}), got {tuple(scores.shape)}"
            )
        # topk takes any of equal scores, which depends on the device and the number of classes.
        first = scores.argsort(dim=1, descending=True, stable=True)[:, : max(self.top_k, default=0)]
        heights = self.height(first, target[:, -1:]) * labeled.unsqueeze(1)
        self.add(heights.sum(0).cumsum(0)[self.among - 1], labeled.sum())

    def compute(self) -> Tensor:
        """float32 (K,), each in [0, L]."""
        return self.heights / (self.total * self.among)
