"""GraphPool against a loop over images, tokens and clusters, with all its options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.pooling.centroids import farthest
from castssl.pooling.graph import GraphPool
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

    def logit(n: int, c: int) -> Tensor:
        return pool.kappa * F.cosine_similarity(refined[n], refined[c], dim=0)

    assign = torch.stack([torch.stack([logit(n, c) for c in picks]).softmax(0) for n in range(count)])
    hidden = [pool.fc1(row) for row in z]
    output = [pool.fc2(row) for row in hidden]
    rows = []
    for j, c in enumerate(picks):
        averaged = hidden if pool.average == "hidden" else output
        total = sum((assign[n, j] * averaged[n] for n in range(count)), torch.zeros(()))
        mean = total / assign[:, j].sum()
        rows.append(z[c] + (pool.fc2(mean) if pool.average == "hidden" else mean))
    kept = cls if pool.cls == "keep" else cls + pool.fc2(pool.fc1(cls))
    return kept, torch.stack(rows), assign


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


OPTIONS = st.fixed_dictionaries(
    {
        "kappa": st.floats(0.1, 60),
        "cls": st.sampled_from(["mlp", "keep"]),
        "average": st.sampled_from(["hidden", "output"]),
        "padding": st.sampled_from(["mask", "reference"]),
    }
)


@settings(max_examples=20, deadline=None)
@drawn(OPTIONS, st.integers(0, 10**6), st.integers(1, 7))
def test_all_options_equal_the_oracle(options: dict[str, Any], seed: int, size: int) -> None:
    given = tokens(seed, batch=1, padded=0)
    torch.manual_seed(seed)
    pool = GraphPool(12, heads=3, **options).eval()
    cls, x, assign = oracle(pool, given.cls[0], given.x[0], size)
    pooled = pool(given, size)
    torch.testing.assert_close(pooled.cls[0], cls, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pooled.x[0], x, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pooled.assign[0], assign, atol=1e-5, rtol=1e-4)


def both(given: Tokens, size: int, *, norm: bool = True) -> tuple[Tensor, Tensor]:
    """The pooled tokens of one pooling with each place of the average, with or without the norm between."""
    pooled = []
    for average in ("hidden", "output"):
        torch.manual_seed(0)
        pool = GraphPool(12, heads=3, average=average).eval()
        if not norm:
            pool.fc2[0] = nn.Identity()
        pooled.append(pool(given, size).x)
    return pooled[0], pooled[1]


def test_only_the_norm_between_the_layers_tells_the_places_of_the_average_apart() -> None:
    hidden, output = both(tokens(), 4)
    assert (hidden - output).abs().max() > 1e-3
    torch.testing.assert_close(*both(tokens(), 4, norm=False))


@pytest.mark.parametrize("sign", [1, -1])
def test_both_averages_agree_where_centered_hidden_features_are_positive_multiples(sign: int) -> None:
    """The norm of a mean has variance 1; a mean of norms has it only if all are the same."""
    draw = torch.Generator().manual_seed(0)
    direction, lengths = torch.randn(12, generator=draw), torch.rand(1, 6, 1, generator=draw) + 0.5
    lengths[:, ::2] *= sign
    given = Tokens(lengths * direction, torch.zeros(1, 1, 12), torch.ones(1, 6))
    pooled = []
    for average in ("hidden", "output"):
        torch.manual_seed(0)
        pool = GraphPool(12, heads=3, kappa=0.1, average=average).eval()
        pool.fc1 = nn.Sequential(nn.Linear(12, 48, bias=False))
        pool.fc2[0] = nn.LayerNorm(48, eps=0)
        pooled.append(pool(given, 2).x)
    difference = float((pooled[0] - pooled[1]).detach().abs().max())
    assert difference < 1e-4 if sign > 0 else difference > 1e-2


def test_of_tokens_that_are_alike_both_averages_are_the_same() -> None:
    given = tokens()
    blank = given._replace(x=given.x[:, :1].expand_as(given.x) * (given.mass > 0)[..., None])
    torch.testing.assert_close(*both(blank, 4))


def test_a_large_kappa_gives_the_nearest_centroid_and_a_small_one_equal_shares() -> None:
    given = tokens(padded=0)
    results = []
    for kappa in (1e-6, 5.0, 1e6):
        torch.manual_seed(0)
        results.append(GraphPool(12, heads=3, kappa=kappa).eval()(given, 4).assign)
    equal, usual, hard = results
    torch.testing.assert_close(equal, torch.full_like(equal, 0.25), atol=1e-5, rtol=0)
    assert torch.equal(hard.argmax(-1), usual.argmax(-1))
    assert hard.amax(-1).min() > 0.99


def test_a_kept_class_token_is_the_same_tensor_and_changes_no_token() -> None:
    given = tokens()
    torch.manual_seed(0)
    passes = GraphPool(12, heads=3).eval()
    keeps = GraphPool(12, heads=3, cls="keep").eval()
    keeps.load_state_dict(passes.state_dict())
    assert keeps(given, 4).cls is given.cls
    torch.testing.assert_close(keeps(given, 4).x, passes(given, 4).x)
    assert (passes(given, 4).cls - given.cls).abs().max() > 1e-3


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
    for kappa in (0, -5.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="kappa must be a positive number, got"):
            GraphPool(12, heads=3, kappa=kappa)
    with pytest.raises(ValueError, match=r"expected one of .*mlp.*'drop'"):
        GraphPool(12, heads=3, cls="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected one of .*output.*'middle'"):
        GraphPool(12, heads=3, average="middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot pool 10 tokens into 11"):
        GraphPool(12, heads=3)(tokens(), 11)
