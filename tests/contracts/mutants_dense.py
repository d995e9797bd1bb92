"""Seeded faults of dense tokens, each with the check that must catch it and words of its message."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from castssl.encoder_config import EncoderConfig
from castssl.testing import encoders as room
from castssl.testing.claims import Check, Subject
from castssl.types import DenseTokens, View
from tests.contracts.healthy import Pairs


class Dense(Pairs):
    """Changes its dense tokens."""

    def dense(self, view: View, sizes: Sequence[int] | None = None) -> DenseTokens:
        return self.change_dense(super().dense(view, sizes))

    def change_dense(self, tokens: DenseTokens) -> DenseTokens:
        return tokens


class OtherWidth(Dense):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.dense_dim = 33


class WholeDenseMass(Dense):
    def change_dense(self, tokens: DenseTokens) -> DenseTokens:
        return tokens._replace(mass=tokens.mass.long())


class FlatLabels(Dense):
    def change_dense(self, tokens: DenseTokens) -> DenseTokens:
        return tokens._replace(labels=tokens.labels.flatten(1))


class LabelsBeyond(Dense):
    def change_dense(self, tokens: DenseTokens) -> DenseTokens:
        return tokens._replace(labels=tokens.labels + 1000)


class LabelsOfPadding(Dense):
    def change_dense(self, tokens: DenseTokens) -> DenseTokens:
        return tokens._replace(labels=torch.full_like(tokens.labels, tokens.x.shape[1] - 1))


class OtherGrid(Dense):
    def change_dense(self, tokens: DenseTokens) -> DenseTokens:
        return tokens._replace(grid=(3, 5))


class FinestAlone(Pairs):
    """Dense tokens that the later stages have no part in."""

    def dense(self, view: View, sizes: Sequence[int] | None = None) -> DenseTokens:
        found = self(view)
        return DenseTokens(found.stages[0].x, found.stages[0].mass, found.segments)


class DenseCentersTheBatch(Dense):
    def change_dense(self, tokens: DenseTokens) -> DenseTokens:
        return tokens._replace(x=tokens.x - tokens.x.mean(0, keepdim=True))


MUTANTS: list[tuple[Check, Subject, str]] = [
    (room.check_dense, OtherWidth, r"shape \(3, 16, 32\), not \(3, 16, 33\)"),
    (room.check_dense, WholeDenseMass, "torch.int64"),
    (room.check_dense, FlatLabels, "whole numbers"),
    (room.check_dense, LabelsBeyond, "but there are 16 tokens"),
    (room.check_dense, LabelsOfPadding, "mass 0 is padding"),
    (room.check_dense, OtherGrid, "a grid of 3 x 5"),
    (room.check_dense, DenseCentersTheBatch, "no statistic may run over the batch"),
    (room.check_gradients, FinestAlone, r"no gradient of dense tokens reaches cls, mix\.1\.0\.weight"),
]
