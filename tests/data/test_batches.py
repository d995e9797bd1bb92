from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.data.batches import EpochBatches
from castssl.errors import ConfigError


def _joined(lists: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def _steps(length: int, size: int, world: int, **options: bool) -> list[list[int]]:
    """The global batches, put together from all ranks."""
    shares = [list(EpochBatches(length, size, rank=rank, world=world, **options)) for rank in range(world)]
    steps = max(map(len, shares))
    return [_joined(share[k] for share in shares if k < len(share)) for k in range(steps)]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.sampled_from([4, 8, 12]), st.sampled_from([2, 4]), st.booleans(), st.booleans())
def test_ranks_share_the_batches_of_one(
    length: int, size: int, world: int, shuffle: bool, drop_last: bool
) -> None:
    if drop_last and length < size:
        return
    together = _steps(length, size, world, shuffle=shuffle, drop_last=drop_last)
    assert together == _steps(length, size, 1, shuffle=shuffle, drop_last=drop_last)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.sampled_from([2, 6]), st.sampled_from([1, 2]))
def test_evaluation_sees_each_image_once_in_order(length: int, size: int, world: int) -> None:
    steps = _steps(length, size, world, shuffle=False, drop_last=False)
    assert _joined(steps) == list(range(length))


@settings(max_examples=50, deadline=None)
@given(st.integers(4, 60), st.sampled_from([2, 4]), st.sampled_from([1, 2]), st.booleans())
def test_its_length_is_what_it_yields(length: int, size: int, world: int, drop_last: bool) -> None:
    for rank in range(world):
        batches = EpochBatches(length, size, rank=rank, world=world, drop_last=drop_last)
        assert len(list(batches)) == len(batches)
        assert all(batch for batch in batches)


def test_training_drops_only_the_rest_and_shuffles_anew_each_epoch() -> None:
    batches = EpochBatches(50, 8, seed=3)
    first = _joined(batches)
    assert len(first) == len(set(first)) == 48
    assert first == _joined(batches)
    batches.epoch = 1
    second = _joined(batches)
    assert second != first
    assert first != _joined(EpochBatches(50, 8, seed=4))
    # neither seed + epoch nor seed * epoch: the runs of two seeds must never meet
    assert second != _joined(EpochBatches(50, 8, seed=4))


def test_start_resumes_inside_an_epoch() -> None:
    whole = EpochBatches(40, 8, seed=1)
    whole.epoch = 2
    resumed = EpochBatches(40, 8, seed=1)
    resumed.epoch, resumed.start = 2, 3
    assert list(resumed) == list(whole)[3:]
    assert len(resumed) == len(whole) == 5
    resumed.start = 9
    assert list(resumed) == []


@pytest.mark.parametrize(
    ("length", "size", "rank", "world"),
    [(10, 5, 0, 2), (10, 0, 0, 1), (10, 4, 2, 2), (3, 4, 0, 1), (0, 1, 0, 1)],
)
def test_refuses_what_cannot_be_shared(length: int, size: int, rank: int, world: int) -> None:
    with pytest.raises(ConfigError, match=rf"{size}"):
        EpochBatches(length, size, rank=rank, world=world)
