"""Matching: the nearest neighbor of a random view among views of all images is of the same image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from castssl.evaluation.features import Features, blocks, check_rows, unit
from castssl.evaluation.held_out import Evaluator, Forward, ImageBatch, Subject, spread
from castssl.metrics.collapse import alignment

IMAGES = 256
"""How many held-out images take part."""


@dataclass(eq=False)
class Matching(Evaluator):
    """``match``: how often one view of an image finds the other among :data:`IMAGES`, in [0, 1].

    Its ``views`` must make two views of each image.

    Args:
        aligned: also give ``alignment_sq``, the alignment of both views' embeddings.
    """

    title: ClassVar[str] = "matching"
    aligned: bool = False
    _features: list[Features] = field(init=False, repr=False)
    _embeddings: list[Features] = field(init=False, repr=False)

    def images(self) -> Sequence[int] | None:
        """At most :data:`IMAGES`, evenly spread."""
        return spread(len(self._data.held_out or ()), IMAGES)

    def begin(self, subject: Subject) -> None:
        """Forget earlier features."""
        self._features = [Features(self._data.device), Features(self._data.device)]
        self._embeddings = [Features(self._data.device) for _ in self._features * self.aligned]

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Keep the features of both views, and their embeddings."""
        for rows, view in zip(self._features, batch.views, strict=True):
            rows.add(forward.feature(view), batch.target, batch.positions)
        for rows, view in zip(self._embeddings, batch.views, strict=False):
            rows.add(forward.embedding(view), batch.target, batch.positions)

    def result(self, subject: Subject) -> dict[str, float]:
        """``match``, and ``alignment_sq`` if that is asked for."""
        first, second = (rows.gather()[0] for rows in self._features)
        embeddings = [rows.gather()[0] for rows in self._embeddings]
        found = {"alignment_sq": alignment(*embeddings)} if embeddings else {}
        return {"match": match(first, second), **found}

    def chance(self) -> dict[str, float]:
        """One in so many images."""
        return {"match": 1 / min(IMAGES, len(self._data.held_out or ()))}


def match(a: Tensor, b: Tensor) -> float:
    """The share of rows of ``a`` whose nearest row of ``b`` is the other view of the same image.

    Args:
        a: float (n, D), of any length; nearness is the cosine.
        b: float (n, D), row i showing the same image as row i of ``a``.

    Returns:
        In [0, 1]; 1 / n if all rows of ``b`` are alike (a collapsed encoder).

    Raises:
        ValueError: if the shapes differ, there are no rows, or a feature is not finite.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"match: expected two (n, D) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    check_rows("match", a)
    check_rows("match", b)
    bank = unit(b).T
    parts = blocks(len(a), len(b))
    nearest = torch.cat([(unit(a[some]) @ bank).argmax(1).cpu() for some in parts])
    return float((nearest == torch.arange(len(a))).float().mean())
