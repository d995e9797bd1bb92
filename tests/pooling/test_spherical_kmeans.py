"""Spherical K-means against loops over images and tokens, and what must hold for any input."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from castssl.pooling.spherical_kmeans import spherical_kmeans

Rows = list[list[float]]


def drawn(seed: int, batch: int = 3, tokens: int = 12, dim: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Features, valid tokens (none in the last image) and whole weights."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, tokens, dim, generator=generator, dtype=torch.float64)
    valid = torch.rand(batch, tokens, generator=generator) < 0.8
    valid[-1] = False
    return x, valid, torch.randint(1, 5, valid.shape, generator=generator).double()


def naive(x: Tensor, weight: Tensor, k: int, iterations: int, seed: int) -> tuple[list[int], Rows]:
    """One image whose tokens are all valid, token by token."""
    draws = torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    unit = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in x.tolist()]

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(p * q for p, q in zip(a, b, strict=True))

    centers: Rows = []
    for draw in draws:
        mass = [
            w * min([2.0] + [max(1 - cosine(row, center), 0) for center in centers])
            for row, w in zip(unit, weight.tolist(), strict=True)
        ]
        reached, wanted = 0.0, draw * sum(mass)
        for row, share in zip(unit, mass, strict=True):
            reached += share
            if reached > wanted:
                centers.append(row)
                break

    def assign() -> list[int]:
        return [int(np.argmax([cosine(row, center) for center in centers])) for row in unit]

    def means(index: list[int], empty: Rows) -> Rows:
        result = []
        for group in range(k):
            total = [0.0] * len(unit[0])
            for row, w, at in zip(unit, weight.tolist(), index, strict=True):
                if at == group:
                    total = [t + w * value for t, value in zip(total, row, strict=True)]
            length = math.sqrt(cosine(total, total))
            result.append([t / length for t in total] if length else empty[group])
        return result

    for _ in range(iterations):
        centers = means(assign(), centers)
    index = assign()
    return index, means(index, [[0.0] * len(unit[0])] * k)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("iterations", [0, 1, 7])
def test_groups_are_those_of_loops_over_images_and_tokens(seed: int, iterations: int) -> None:
    x, valid, weight = drawn(seed)
    found = spherical_kmeans(x, valid, 4, weight=weight, iterations=iterations, seed=seed)
    for at in range(2):
        index, centers = naive(x[at, valid[at]], weight[at, valid[at]], 4, iterations, seed)
        assert found.group[at, valid[at]].tolist() == index
        torch.testing.assert_close(found.centers[at], torch.tensor(centers, dtype=torch.float64))
        mass = torch.zeros(4).double().index_add(0, torch.tensor(index), weight[at, valid[at]])
        torch.testing.assert_close(found.mass[at], mass)
    assert found.group[~valid].eq(-1).all()
    assert not found.centers[2].any()
    assert not found.mass[2].any()


@given(seed=st.integers(0, 1000), k=st.integers(1, 15), extra=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_an_image_depends_on_its_own_valid_tokens_alone(seed: int, k: int, extra: int) -> None:
    x, valid, weight = drawn(seed)
    together = spherical_kmeans(x, valid, k, weight=weight, seed=seed)
    torch.manual_seed(seed)
    padded = torch.cat([x[1:2], torch.full((1, extra, 4), 1e3).double()], 1)
    more = torch.nn.functional.pad(valid[1:2], (0, extra))
    weights = torch.nn.functional.pad(weight[1:2], (0, extra), value=9.0)
    alone = spherical_kmeans(padded * 7, more, k, weight=weights, seed=seed)
    assert torch.equal(alone.group[0, :12], together.group[1])
    torch.testing.assert_close(alone.centers[0], together.centers[1])
    rotation = torch.linalg.qr(torch.randn(4, 4).double())[0]
    turned = spherical_kmeans(x @ rotation, valid, k, weight=weight, seed=seed)
    assert torch.equal(turned.group, together.group)


@given(seed=st.integers(0, 1000), k=st.integers(1, 15))
@settings(deadline=None, max_examples=40)
def test_more_iterations_never_fit_worse(seed: int, k: int) -> None:
    x, valid, weight = drawn(seed)
    lengths = []
    for iterations in (0, 1, 2, 10):
        found = spherical_kmeans(x, valid, k, weight=weight, iterations=iterations, seed=seed)
        unit = torch.nn.functional.normalize(x, dim=-1)
        own = found.centers.gather(1, found.group.clamp(min=0)[..., None].expand_as(x))
        lengths.append(((unit * own).sum(-1) * weight * valid).sum())
        assert found.mass.sum(1).equal((weight * valid).sum(1))
        full = found.mass > 0
        torch.testing.assert_close(found.centers.norm(dim=-1), full.double())
    assert all(after >= before - 1e-9 for before, after in pairwise(lengths))


def test_as_many_groups_as_directions_have_one_each_and_others_are_empty() -> None:
    """Repeated directions of several lengths, among them opposite ones."""
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    x = (directions[torch.tensor([0, 1, 1, 2, 0, 2, 1])] * torch.arange(1, 8)[:, None])[None]
    found = spherical_kmeans(x, torch.ones(1, 7, dtype=torch.bool), 5, seed=3)
    first, second, third = (found.group[0, [a]].item() for a in (0, 1, 3))
    assert len({first, second, third}) == 3
    assert found.group[0].tolist() == [first, second, second, third, first, third, second]
    assert (found.mass > 0).sum() == 3
    assert found.centers[found.mass == 0].eq(0).all()


def test_opposite_tokens_in_one_group_have_no_direction() -> None:
    x = torch.tensor([[[1.0, 0], [-1, 0]]])
    found = spherical_kmeans(x, torch.ones(1, 2, dtype=torch.bool), 1)
    assert found.group.tolist() == [[0, 0]]
    assert not found.centers.any()
    assert found.mass.tolist() == [[2]]


def test_the_seed_decides_and_half_precision_is_grouped_in_float32() -> None:
    x, valid, _ = drawn(0, tokens=60)
    results = [spherical_kmeans(x, valid, 6, seed=seed).group for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = spherical_kmeans(x.bfloat16(), valid, 6)
    assert half.centers.dtype == torch.float32
    assert torch.equal(half.group, spherical_kmeans(x.bfloat16().float(), valid, 6).group)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, "expected k of 1 or more"),
        ({"iterations": -1}, "iterations of 0 or more"),
        ({"valid": torch.ones(3, 11, dtype=torch.bool)}, r"got \(3, 12, 4\), \(3, 11\) and None"),
        ({"weight": torch.ones(3, 1)}, r"and \(3, 1\)"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, object], words: str) -> None:
    x, valid, _ = drawn(0)
    arguments: dict[str, object] = {"x": x, "valid": valid, "k": 3} | change
    with pytest.raises(ValueError, match=words):
        spherical_kmeans(**arguments)  # type: ignore[arg-type]
