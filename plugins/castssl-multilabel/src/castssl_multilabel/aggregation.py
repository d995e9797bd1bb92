"""From what the stages found of each label to a score: cross-scale aggregation and the classifier.

HSVLT, https://arxiv.org/abs/2407.16244: its aggregation is Hamburger (https://arxiv.org/abs/2109.04553), a
factorization of the features of all labels of an image.  The released code (commit cd7c5ca) has the module
and does not use it: its classifier reads all stages side by side.
Shape letters: B images, C labels, D channels, R bases.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.nn import functional

Rows: TypeAlias = Literal["own", "shared"]


class Aggregation(nn.Module):
    """One feature of each label from those of all stages.

    Args:
        dims: channels of each stage, fine to coarse.
    """

    dim: int
    """Channels of the result."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.dim = dims[-1]

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Float (B, C, D) of each stage, fine to coarse -> float (B, C, ``dim``)."""
        raise NotImplementedError(f"{type(self).__name__}.forward")


class LastStage(Aggregation):
    """No aggregation: the feature of the last stage."""

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """The last of ``stages``."""
        return stages[-1]


class Concatenation(Aggregation):
    """The released code's: all stages side by side, fine to coarse."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__(dims)
        self.dim = sum(dims)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Float (B, C, the sum of all D)."""
        return torch.cat(list(stages), -1)


class Factorization(nn.Module):
    """Features that are not negative as products of R bases, by non-negative matrix factorization.

    X (D, C) = bases (D, R) coefficients (C, R)^T, by multiplicative updates; the gradient passes through all
    of them.  The released code draws new bases in every call, also in evaluation.  Here a buffer holds the
    first bases, drawn with a fixed seed, so that results can be repeated.

    Args:
        dim: D.
        rank: R.
    """

    bases: Tensor
    steps = (6, 7)
    """Updates in training and in evaluation."""

    def __init__(self, dim: int, rank: int = 64) -> None:
        super().__init__()
        drawn = torch.rand(dim, rank, generator=torch.Generator().manual_seed(0), device="cpu")
        self.register_buffer("bases", functional.normalize(drawn, dim=0).to(torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, D), 0 or more, to its reconstruction, float32 (B, C, D)."""
        device = x.device.type
        with torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext():
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            bases = self.bases.to(x.dtype).expand(len(x), -1, -1)
            coefficients = (x @ bases).softmax(-1)  # (B, C, R)
            for _ in range(self.steps[0 if self.training else 1]):
                coefficients = _multiplied(coefficients, x @ bases, bases.mT @ bases)
                bases = _multiplied(bases, x.mT @ coefficients, coefficients.mT @ coefficients)
            coefficients = _multiplied(coefficients, x @ bases, bases.mT @ bases)
            return coefficients @ bases.mT


class Hamburger(Aggregation):
    """The paper's: squeeze all stages, add the factorization of the squeezed features, align.

    With ``kernel=1`` the features of a label do not depend on the order of labels.  The released module has
    convolutions of kernel 3 over neighboring labels, so that they do.

    Args:
        dims: channels of each stage, fine to coarse.
        kernel: 1 or 3.
    """

    def __init__(self, dims: Sequence[int], kernel: int = 1) -> None:
        super().__init__(dims)
        self.dim = min(512, sum(dims))
        same = partial(nn.Conv1d, out_channels=self.dim, kernel_size=kernel, padding=kernel // 2)
        self.squeeze = same(sum(dims), bias=False)
        self.before, self.after = same(self.dim), same(self.dim)
        self.factorization = Factorization(self.dim)
        self.align = same(self.dim)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Float (B, C, 512), or as many channels as all stages have if these are fewer."""
        x = self.squeeze(torch.cat(list(stages), -1).mT)  # (B, D, C)
        found = self.factorization(self.before(x).relu().mT)
        x = (x + self.after(found.to(x.dtype).mT)).relu()
        aligned: Tensor = self.align(x)
        return aligned.mT


class Scores(nn.Module):
    """A score of each label: the product of its feature with a vector, and a bias; drawn as nn.Linear's are.

    Args:
        dim: channels of the features.
        labels: C.
        rows: ``"own"``, a vector and a bias of each label, as released; ``"shared"``, one for all, which
            scores any label.
    """

    def __init__(self, dim: int, labels: int, rows: Rows = "own") -> None:
        super().__init__()
        self.rows = rows
        self.linear = nn.Linear(dim, labels if rows == "own" else 1)

    def forward(self, features: Tensor) -> Tensor:
        """Float (B, C, D) -> float (B, C), of the dtype of the weights also under autocast."""
        return (features * self.linear.weight).sum(-1) + self.linear.bias


def _multiplied(factor: Tensor, numerator: Tensor, gram: Tensor) -> Tensor:
    """A factor (..., R) after one multiplicative update (Lee and Seung)."""
    return factor * numerator / (factor @ gram + 1e-6)
