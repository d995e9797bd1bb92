from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from castssl.metrics.collapse import alignment, dead_dimensions, deviations, effective_rank, uniformity


def features(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_effective_rank_is_the_formula_of_rankme(count: int, width: int, seed: int) -> None:
    rows = features(count, width, seed)
    singular = torch.linalg.svdvals(rows)
    shares = [float(value / singular.sum()) + 1e-7 for value in singular]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(rows) == pytest.approx(expected, rel=1e-6)


def test_effective_rank_counts_equal_directions() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5, rel=1e-4)
    assert effective_rank(features(30, 1) @ features(1, 8, seed=1)) == pytest.approx(1, rel=1e-4)
    assert effective_rank(torch.zeros(4, 3)) == 0


def test_alignment_and_uniformity_are_means_over_pairs() -> None:
    first, second = features(7, 3), features(7, 3, seed=1)

    def apart(a: Tensor, b: Tensor) -> float:
        return float((a / a.norm() - b / b.norm()).square().sum())

    pairs = [apart(a, b) for a, b in zip(first, second, strict=True)]
    assert alignment(5 * first, second) == pytest.approx(sum(pairs) / 7)
    different = [math.exp(-2 * apart(first[i], first[j])) for i in range(7) for j in range(7) if i != j]
    assert uniformity(first) == pytest.approx(math.log(sum(different) / len(different)))
    assert math.isnan(uniformity(first[:1]))
    many = features(2500, 3, seed=2)  # More than one block.
    cosines = torch.nn.functional.cosine_similarity(many[:, None], many[None], dim=2)
    expected = (torch.exp(4 * cosines - 4).sum() - 2500) / (2500 * 2499)
    assert uniformity(many) == pytest.approx(float(expected.log()))


def test_features_on_the_sphere_have_no_dead_dimension_and_equal_ones_have_only_dead_ones() -> None:
    uniform = features(4000, 16)
    assert deviations(uniform).mean() == pytest.approx(1, abs=0.02)
    assert dead_dimensions(uniform) == 0
    assert uniformity(uniform) < -3
    constant = features(1, 16).expand(4000, 16)
    assert dead_dimensions(constant) == 1
    assert uniformity(constant) == pytest.approx(0, abs=1e-9)
    assert uniformity(torch.zeros(100, 4)) == pytest.approx(0, abs=1e-9), "alike, though of no direction"
    half = torch.cat([uniform[:, :8], constant[:, 8:] * 1e-6], 1)
    assert dead_dimensions(half) == 0.5
