"""Nearest neighbors: the held-out images whose class tokens are most alike (H-CAST's poster)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from castssl.errors import ConfigError, DataError
from castssl.evaluation.features import blocks, check_rows, largest, unit
from castssl.evaluation.held_out import Evaluator, Forward, ImageBatch, Subject, indexed


@dataclass(eq=False)
class Neighbors(Evaluator):
    """``neighbors_levelL``: the share of an image's nearest held-out images of its class, in [0, 1].

    Images without a label at a level do not count there.

    Args:
        k: how many neighbors.
        stage: whose class token is compared, -1 the last.

    Attributes:
        positions: int64 (n,), the held-out images that were read.
        nearest: int64 (n, k), positions of the nearest images of each, the nearest first.
    """

    title: ClassVar[str] = "neighbors"
    k: int = 5
    stage: int = -1
    positions: Tensor = field(init=False, repr=False)
    nearest: Tensor = field(init=False, repr=False)

    def begin(self, subject: Subject) -> None:
        """Start anew.

        Raises:
            ConfigError: if the encoder has no such stage.
        """
        stages = subject.encoder.stages_with_cls
        if not -stages <= self.stage < stages:
            raise ConfigError(
                f"stage {self.stage}: the encoder has class tokens at the stages 0 to {stages - 1}"
            )
        super().begin(subject)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Keep the class tokens of the images that could be read."""
        images = indexed(self._data.held_out)
        kept = batch.readable(images, range(len(images)))
        token = forward.hierarchy(batch.views[0]).stages[self.stage].cls[kept, 0].float()
        labels = batch.target[kept, : self._data.tree.levels].cpu().long()  # Many labels are left out.
        numbered = torch.cat([batch.positions[kept, None], labels], 1)
        self._rows.add(token, numbered, batch.positions[kept])

    def result(self, subject: Subject) -> dict[str, float]:
        """The shares by level, coarse to fine.

        Raises:
            DataError: if fewer than two images were read.
        """
        features, numbered = self._rows.gather()
        if len(features) < 2:
            raise DataError(f"neighbors: {len(features)} images were read, expected 2 or more; give more")
        self.positions, labels = numbered[:, 0], numbered[:, 1:]
        nearest = find_nearest(features, self.k)
        self.nearest = self.positions[nearest]
        return _by_level(labels, (labels[nearest] == labels[:, None]).float().mean(1))

    def chance(self) -> dict[str, float]:
        """The shares of neighbors that are drawn at random, over the labeled held-out images."""
        labels = self._data.labels()
        columns = [column.unique(return_inverse=True, return_counts=True)[1:] for column in labels.T]
        same = torch.stack([counts[place] for place, counts in columns], 1) - 1 if columns else labels
        return _by_level(labels, same / max(len(labels) - 1, 1))


def find_nearest(features: Tensor, k: int) -> Tensor:
    """The k most similar other rows of each row by cosine, the most similar first.

    Of equally similar rows the first ones count.

    Args:
        features: float (n, D), of any length.
        k: at least 1; all other rows if there are fewer.

    Returns:
        int64 (n, min(k, n - 1)), on the CPU.

    Raises:
        ValueError: if there are fewer than 2 rows, or a feature is not finite.
    """
    check_rows("find_nearest", features)
    if len(features) < 2 or k < 1:
        raise ValueError(
            f"find_nearest: expected k of 1 or more and 2 rows or more, got {k} and {len(features)}"
        )
    bank = unit(features)
    nearest = []
    for some in blocks(len(bank), len(bank)):
        cosines = bank[some] @ bank.T
        itself = torch.arange(len(bank), device=bank.device)[some, None]
        cosines = cosines.scatter(1, itself, -torch.inf)
        nearest.append(largest(cosines, min(k, len(bank) - 1))[1].cpu())
    return torch.cat(nearest)


def _by_level(labels: Tensor, shares: Tensor) -> dict[str, float]:
    """Means over the labeled images, of labels and shares (n, L)."""
    columns = [(level, shares[labels[:, level] >= 0, level]) for level in range(labels.shape[1])]
    return {f"neighbors_level{level}": float(column.mean()) for level, column in columns if len(column)}
