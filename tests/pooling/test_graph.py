"""GraphPool against a loop over images, tokens and clusters, and its two ways with padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.pooling.centroids import farthest
from castssl.pooling.graph import KAPPA, GraphPool
from castssl.types import Tokens


def tokens(seed: int = 0, batch: int = 2, count: int = 7, padded: int = 3, dim: int = 12) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, count + padded, dim, generator=generator)
    mass = torch.randint(1, 5, (batch, count + padded), generator=generator).float()
    mass[:, count:] = 0
    return Tokens(x * (mass > 0)[..., None], torch.randn(batch, 1, dim, generator=generator), mass)


def oracle(pool: GraphPool, cls: Tensor, z: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1 for one image without padding: (N, D) -> new class token, new tokens, assignment."""
    count = len(z)
    refined = z + pool.attn(pool.norm(z)[None])[0]
    refined = refined - refined.mean(0) + pool.bias
    picks = farthest(z[None], torch.ones(1, count, dtype=torch.bool), k)[0].tolist()
    assign = torch.stack(
        [
            torch.stack([KAPPA * F.cosine_similarity(refined[n], refined[c], dim=0) for c in picks]).softmax(
                0
            )
            for n in range(count)
        ]
    )
    hidden = pool.fc1(torch.cat([cls, z]))
    rows = []
    for j, c in enumerate(picks):
        weights = assign[:, j]
        mean = sum((weights[n] * hidden[1 + n] for n in range(count)), torch.zeros(())) / weights.sum()
        rows.append(pool.fc2(mean) + z[c])
    return pool.fc2(hidden[:1]) + cls, torch.stack(rows), assign


def test_without_padding_both_ways_equal_the_oracle() -> None:
    given = tokens(padded=0)
    for padding in ("mask", "reference"):
        torch.manual_seed(0)
        pool = GraphPool(12, heads=3, padding=padding).eval()
        pooled = pool(given, 4)
        for image in range(2):
            cls, x, assign = oracle(pool, given.cls[image], given.x[image], 4)
            torch.testing.assert_close(pooled.cls[image], cls)
            torch.testing.assert_close(pooled.x[image], x)
            torch.testing.assert_close(pooled.assign[image], assign)


def test_masked_padding_equals_the_oracle_on_the_valid_rows() -> None:
    given = tokens()
    pool = GraphPool(12, heads=3).eval()
    pooled = pool(given, 4)
    for image in range(2):
        cls, x, assign = oracle(pool, given.cls[image], given.x[image, :7], 4)
        torch.testing.assert_close(pooled.cls[image], cls)
        torch.testing.assert_close(pooled.x[image], x)
        torch.testing.assert_close(pooled.assign[image, :7], assign)
    assert not pooled.assign[:, 7:].any()


def test_reference_padding_takes_part() -> None:
    given = tokens()
    pool = GraphPool(12, heads=3, padding="reference").eval()
    alone = given._replace(x=given.x[:, :7], mass=given.mass[:, :7])
    assert (pool(given, 4).x - pool(alone, 4).x).abs().max() > 1e-3


def test_fewer_valid_tokens_than_clusters_leave_empty_columns() -> None:
    given = tokens(count=3, padded=5)
    pooled = GraphPool(12, heads=3).eval()(given, 6)
    mass = (pooled.assign * given.mass[..., None]).sum(1)
    assert (mass > 0).sum(1).tolist() == [3, 3]
    torch.testing.assert_close(mass.sum(1), given.mass.sum(1))
    assert not pooled.x[:, 3:].any()


def test_received_declares_its_need_and_says_when_it_is_missing() -> None:
    pool = GraphPool(12, heads=3, centroids="received")
    assert pool.needs == {"received"}
    assert GraphPool(12, heads=3).needs == frozenset()
    with pytest.raises(ValueError, match=r"tokens\.received"):
        pool(tokens(), 4)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="multiple of heads, got dim 10 and 3"):
        GraphPool(10, heads=3)
    with pytest.raises(ValueError, match=r"expected one of .*farthest.*'nearest'"):
        GraphPool(12, heads=3, centroids="nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot pool 10 tokens into 11"):
        GraphPool(12, heads=3)(tokens(), 11)
