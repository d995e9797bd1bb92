"""The contract checks, without a single exception; other options than the defaults too."""

from __future__ import annotations

import pytest
import torch

from castssl.testing import Check, Subject, parametrize, samples
from castssl.testing import pooling as room
from castssl.testing.pooling import make_pooling, pool
from castssl_clustering.finch import Finch
from castssl_clustering.kmeans import KMeans
from castssl_clustering.token_pooling import TokenPooling
from castssl_clustering.tome import ToMe

NAMES = ("ctm", "finch", "kmeans", "kmedoids", "token-pooling", "tome")
OTHERS = (
    "ctm:neighbors=40",
    "finch:whole=true,likeness=euclidean,metric=keys",
    "kmeans:start=random,iterations=0,metric=keys",
    "kmedoids:keep=medoid,start=random,metric=keys",
    "token-pooling:centers=medoids",
    "tome:metric=features,proportional=false",
)
SLOW = {room.check_reads_nothing_back, room.check_compiles}
"""Seconds each: for the defaults only."""


@parametrize(room.checks, NAMES)
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)


@parametrize([check for check in room.checks if check not in SLOW], OTHERS)
def test_contract_with_other_options(check: Check, subject: Subject) -> None:
    check(subject)


@pytest.mark.parametrize("spec", [*NAMES, *OTHERS])
def test_clusters_are_the_same_in_half_precision(spec: str) -> None:
    """Autocast reaches the learned weights at most, never who joins whom; on tokens far from the origin."""
    pooling = make_pooling(spec)
    given = samples.tokens(pooling.needs)
    given = given._replace(x=given.x + 30)
    whole = pool(pooling, given)
    with torch.autocast("cpu", torch.bfloat16):
        half = pool(pooling, given)
    assert torch.equal(whole.assign, half.assign)
    tolerance = 0.1 if spec.startswith("ctm") else 1e-5
    torch.testing.assert_close(whole.x, half.x, atol=tolerance, rtol=0)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="start must be one of 'farthest', 'random', got 'first'"):
        KMeans(8, start="first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iterations must be at least 0, got -1"):
        TokenPooling(8, iterations=-1)
    with pytest.raises(ValueError, match="likeness"):
        Finch(8, likeness="manhattan")  # type: ignore[arg-type]


def test_missing_recordings_are_named() -> None:
    with pytest.raises(ValueError, match="expected tokens with keys"):
        ToMe(8)(samples.tokens(dim=8), 3)
    with pytest.raises(ValueError, match="expected tokens with received"):
        TokenPooling(8)(samples.tokens(dim=8), 3)


def test_what_is_needed_follows_what_is_compared() -> None:
    assert ToMe(8).needs == KMeans(8, metric="keys").needs == {"keys"}
    assert not ToMe(8, metric="features").needs | KMeans(8).needs | Finch(8).needs
