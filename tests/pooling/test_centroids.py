"""Centroid choices against a naive loop in exact arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from castssl.pooling import farthest_point
from castssl.pooling.centroids import farthest, most_attended, random

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "operators.safetensors"


def naive_farthest(x: Tensor, valid: Tensor, k: int) -> list[int]:
    """Begin at the mean of the valid rows; then always the farthest from all that are chosen."""
    points = [row.double() for row in x]
    chosen: list[int] = []
    centers = [torch.stack([p for p, v in zip(points, valid, strict=True) if v]).mean(0)]
    while len(chosen) < k:
        rest = [i for i in range(len(points)) if valid[i] and i not in chosen]
        gap = {i: min(float((points[i] - c).square().sum()) for c in centers) for i in rest}
        best = max(rest, key=lambda i: (gap[i], -i))
        chosen.append(best)
        centers.append(points[best])
    return chosen


@given(seed=st.integers(0, 9999), count=st.integers(3, 14), padded=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_farthest_equals_the_naive_loop(seed: int, count: int, padded: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, count + padded, 5, generator=generator)
    valid = torch.arange(count + padded).expand(2, -1) < count
    for exact in (False, True):
        picks = farthest(x, valid, count, exact=exact)
        with patch.object(farthest_point, "MATRIX", 2):
            by_blocks = farthest(x, valid, count, exact=exact)
        for image in range(2):
            expected = naive_farthest(x[image], valid[image], count)
            assert picks[image].tolist() == by_blocks[image].tolist() == expected


def test_farthest_gives_the_picks_of_the_released_sampler() -> None:
    stored = load_file(GOLDEN)
    for case in range(3):
        points, picks = stored[f"fps{case}.x"], stored[f"fps{case}.picks"]
        valid = torch.ones(points.shape[0], points.shape[1] - 1, dtype=torch.bool)
        # The stored sampler begins at row 0 and counts it among its picks.
        got = farthest(points[:, 1:], valid, picks.shape[1] - 1, start=points[:, :1], exact=True)
        assert torch.equal(got + 1, picks[:, 1:])


class Largest(TorchDispatchMode):
    """Keeps the number of values of the largest tensor that an operator returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.values = max(self.values, leaf.numel())
        return result


def test_many_tokens_have_no_matrix_of_distances() -> None:
    """Beside a copy of the tokens, nothing has more values than they have."""
    x, valid = torch.randn(2, 3100, 8), torch.ones(2, 3100, dtype=torch.bool)
    with Largest() as largest:
        farthest(x, valid, 3)
    assert largest.values == x.numel()
    with Largest() as largest:
        farthest(x[:, :3000], valid[:, :3000], 3)
    assert largest.values == 2 * 3000**2


@pytest.mark.parametrize("limit", [2, 3000])
@pytest.mark.parametrize("exact", [False, True])
def test_identical_tokens_are_picked_once_each(
    exact: bool, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farthest_point, "MATRIX", limit)
    picks = farthest(torch.ones(2, 6, 4), torch.ones(2, 6, dtype=torch.bool), 6, exact=exact)
    assert [sorted(row) for row in picks.tolist()] == [list(range(6))] * 2


def test_rows_of_batches_and_of_images_alone_pick_alike() -> None:
    x, valid = torch.randn(3, 50, 4, dtype=torch.float64), torch.ones(3, 50, dtype=torch.bool)
    x -= x.mean(1, keepdim=True)
    expected = farthest_point.by_matrix(x, valid, 20)
    assert torch.equal(farthest_point.by_rows(x, valid, 20), expected)
    assert torch.equal(farthest_point.by_blocks(x[1], valid[1], 20), expected[1])


@pytest.mark.parametrize("spread", [1e-3, 1.0])
def test_blocks_of_rows_pick_alike_from_clusters(spread: float) -> None:
    """Within a cluster a pick brings its neighbors near, so that few of the tokens ahead are picked."""
    centers = torch.randn(9, 1, 6, dtype=torch.float64)
    x = (centers + spread * torch.randn(9, 40, 6, dtype=torch.float64)).flatten(0, 1)[None]
    valid = torch.rand(1, 360) < 0.9
    picks = farthest_point.by_blocks(x[0], valid[0], 200)
    assert torch.equal(picks, farthest_point.by_matrix(x, valid, 200)[0])


@pytest.mark.parametrize("limit", [2, 3000])
@pytest.mark.parametrize("choose", ["farthest", "random", "most_attended"])
def test_valid_tokens_come_before_padding(choose: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farthest_point, "MATRIX", limit)
    x = torch.randn(3, 8, 4)
    valid = torch.tensor([1, 0, 1, 0, 0, 1, 0, 0], dtype=torch.bool).expand(3, -1)
    picks = {
        "farthest": lambda: farthest(x, valid, 6),
        "random": lambda: random(x, valid, 6),
        "most_attended": lambda: most_attended(x[..., 0], valid, 6),
    }[choose]()
    for row in picks.tolist():
        assert sorted(row[:3]) == [0, 2, 5]
        assert len(set(row)) == 6


def test_bfloat16_autocast_makes_no_wrong_picks() -> None:
    x = torch.randn(2, 100, 64, generator=torch.Generator().manual_seed(1)) + 10
    valid = torch.ones(2, 100, dtype=torch.bool)
    expected = farthest(x, valid, 40, exact=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(farthest(x, valid, 40), expected)


def test_random_comes_from_the_global_generator() -> None:
    x, valid = torch.randn(2, 50, 4), torch.ones(2, 50, dtype=torch.bool)
    torch.manual_seed(3)
    first = random(x, valid, 10)
    torch.manual_seed(3)
    assert torch.equal(first, random(x, valid, 10))
    assert not torch.equal(first, random(x, valid, 10))
