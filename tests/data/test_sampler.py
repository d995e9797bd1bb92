from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data.distributed_sampler import RepeatAugSampler

from castssl.data.sampler import EpochBatches
from castssl.errors import ConfigError


def _joined(lists: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def _steps(length: int, size: int, world: int, **options: Any) -> list[list[int]]:
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
    full = EpochBatches(40, 8, seed=1)
    full.epoch = 2
    resumed = EpochBatches(40, 8, seed=1)
    resumed.epoch, resumed.start = 2, 3
    assert list(resumed) == list(full)[3:]
    assert len(resumed) == len(full) == 5
    resumed.start = 9
    assert list(resumed) == []


@pytest.mark.parametrize(
    ("length", "size", "rank", "world"),
    [(10, 5, 0, 2), (10, 0, 0, 1), (10, 4, 2, 2), (3, 4, 0, 1), (0, 1, 0, 1)],
)
def test_refuses_what_cannot_be_shared(length: int, size: int, rank: int, world: int) -> None:
    with pytest.raises(ConfigError, match=rf"{size}"):
        EpochBatches(length, size, rank=rank, world=world)


@settings(max_examples=30, deadline=None)
@given(st.integers(12, 60), st.sampled_from([4, 8, 12]), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_repeats_are_those_of_timm(length: int, size: int, world: int, epoch: int) -> None:
    for rank in range(world):
        batches = EpochBatches(length, size, rank=rank, world=world, repeats=3)
        batches.epoch = epoch
        theirs = RepeatAugSampler(range(length), world, rank, num_repeats=3, selected_round=0)  # type: ignore[no-untyped-call]
        theirs.set_epoch(epoch)  # type: ignore[no-untyped-call]
        computed = [number % length for number in _joined(batches)]
        assert computed == list(theirs)[: len(computed)]
        assert len(computed) == length // size * size // world


@settings(max_examples=30, deadline=None)
@given(st.integers(12, 60), st.sampled_from([4, 12]), st.sampled_from([2, 4]), st.integers(2, 4))
def test_repeated_steps_hold_the_same_for_any_number_of_ranks(
    length: int, size: int, world: int, repeats: int
) -> None:
    computed = [sorted(step) for step in _steps(length, size, world, repeats=repeats)]
    assert computed == [sorted(step) for step in _steps(length, size, 1, repeats=repeats)]
    numbers = _joined(computed)
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < length * repeats


def test_a_repeated_epoch_goes_on_from_any_batch() -> None:
    full = list(EpochBatches(40, 4, repeats=3))
    rest = EpochBatches(40, 4, repeats=3)
    rest.start = 7
    assert list(rest) == full[7:]


def test_copies_of_an_image_meet_on_different_ranks() -> None:
    for rank in range(2):
        numbers = next(iter(EpochBatches(40, 4, rank=rank, world=2, repeats=2)))
        assert len({number % 40 for number in numbers}) == 2


def test_repeats_want_whole_batches() -> None:
    with pytest.raises(ConfigError, match="got 3"):
        EpochBatches(40, 4, repeats=3, drop_last=False)
    with pytest.raises(ConfigError, match="got 0"):
        EpochBatches(40, 4, repeats=0)
