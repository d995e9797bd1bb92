from __future__ import annotations

import pytest
import torch
from torch import Tensor

from castssl_multilabel.aggregation import (
    Aggregation,
    Concatenation,
    Factorization,
    Hamburger,
    LastStage,
    Rows,
    Scores,
)

DIMS = (4, 6, 10)


def stages(labels: int = 7) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, labels, dim, generator=draw) for dim in DIMS]


def made(kernel: int = 1) -> Hamburger:
    torch.manual_seed(0)
    return Hamburger(DIMS, kernel).eval()


def test_shapes() -> None:
    for aggregation, dim in ((LastStage(DIMS), 10), (Concatenation(DIMS), 20), (made(), 20)):
        assert isinstance(aggregation, Aggregation)
        assert aggregation.dim == dim
        assert aggregation(stages()).shape == (2, 7, dim)
    assert Hamburger((96, 192, 384, 768)).dim == 512
    assert torch.equal(Concatenation(DIMS)(stages())[..., 4:10], stages()[1])


def test_the_factorization_as_written_out() -> None:
    """One image, one label, one basis at a time; seven updates in evaluation, six in training."""
    torch.manual_seed(0)
    factorization, x = Factorization(4, 3), torch.rand(2, 5, 4)
    for training, steps in ((True, 6), (False, 7)):
        found = factorization.train(training)(x)
        for image in range(2):
            torch.testing.assert_close(found[image], naive(x[image].T, factorization.bases, steps).T)


def naive(x: Tensor, bases: Tensor, steps: int) -> Tensor:
    """X (D, C) and bases (D, R) -> the reconstruction (D, C), by sums of single products."""
    rank, labels = bases.shape[1], x.shape[1]
    weights = torch.stack(
        [torch.stack([x[:, c] @ bases[:, r] for r in range(rank)]).softmax(0) for c in range(labels)]
    )

    def improve(weights: Tensor) -> Tensor:
        inner = bases.T @ bases
        after = weights.clone()
        for c in range(labels):
            for r in range(rank):
                below = sum(weights[c, k] * inner[k, r] for k in range(rank)) + 1e-6
                after[c, r] = weights[c, r] * (x[:, c] @ bases[:, r]) / below
        return after

    for _ in range(steps):
        weights = improve(weights)
        bases = bases * (x @ weights) / (bases @ (weights.T @ weights) + 1e-6)
    return bases @ improve(weights).T


def test_the_factorization_approaches_what_has_few_bases() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 20, 3) @ torch.rand(3, 8)
    factorization = Factorization(8, 16)
    rest = [float((x - factorization(x)).norm() / x.norm())]
    factorization.steps = (100, 100)
    rest.append(float((x - factorization(x)).norm() / x.norm()))
    assert rest[1] < rest[0] < 0.1
    assert rest[1] < 0.02


def test_the_order_of_labels() -> None:
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    moved = [stage[:, order] for stage in stages()]
    assert torch.equal(Concatenation(DIMS)(moved), Concatenation(DIMS)(stages())[:, order])
    own, neighbors = made(1), made(3)
    torch.testing.assert_close(own(moved), own(stages())[:, order], rtol=1e-5, atol=1e-5)
    assert (neighbors(moved) - neighbors(stages())[:, order]).abs().max() > 1e-2


def test_evaluation_is_deterministic_and_bases_are_kept() -> None:
    torch.manual_seed(0)
    first = Hamburger(DIMS)
    assert torch.equal(first.factorization.bases, Hamburger(DIMS).factorization.bases)
    assert "factorization.bases" in first.state_dict()
    state = torch.get_rng_state()
    assert torch.equal(first.eval()(stages()), first(stages()))
    assert torch.equal(torch.get_rng_state(), state)


class Detaches(Factorization):
    """A fault: the gradient passes through the first coefficients alone."""

    def forward(self, x: Tensor) -> Tensor:
        bases = self.bases.to(x.dtype)
        first = (x @ bases).softmax(-1) @ bases.mT
        return first + (super().forward(x) - first).detach()


def test_a_gradient_passes_through_all_updates() -> None:
    x = torch.rand(
        1, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(Factorization(3, 2), x)
    assert not torch.autograd.gradcheck(Detaches(3, 2), x, raise_exception=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite(dtype: torch.dtype) -> None:
    hamburger = made()
    with torch.autocast("cpu", dtype):
        found = hamburger(stages())
    torch.testing.assert_close(found.float(), hamburger(stages()), rtol=0.1, atol=0.05)


def test_scores() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 7, 5)
    own, shared = Scores(5, 7), Scores(5, 7, "shared")
    for image in range(2):
        for label in range(7):
            expected = features[image, label] @ own.linear.weight[label] + own.linear.bias[label]
            torch.testing.assert_close(own(features)[image, label], expected)
            expected = features[image, label] @ shared.linear.weight[0] + shared.linear.bias[0]
            torch.testing.assert_close(shared(features)[image, label], expected)
    assert own.linear.weight.abs().max() <= 5**-0.5


@pytest.mark.parametrize("rows", ["own", "shared"])
def test_bfloat16_does_not_round_the_scores(rows: Rows) -> None:
    torch.manual_seed(0)
    features, scores = torch.randn(2, 7, 5), Scores(5, 7, rows)
    with torch.autocast("cpu", torch.bfloat16):
        found = scores(features)
    torch.testing.assert_close(found, scores(features))
