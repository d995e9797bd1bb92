"""Backends beside each other: scores are those of the measures, and a broken one stops nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.errors import DataError
from castssl.evaluation.superpixels import compare, merged
from castssl.metrics.partition import (
    achievable_accuracy,
    apart,
    boundary_recall,
    explained_variation,
    undersegmentation_error,
)
from castssl.superpixels.grid import Grid
from castssl.superpixels.seeds import Seeds
from castssl.testing import samples


class Faulty(Superpixels):
    """A grid that fails at a call, or returns what it must not."""

    runs_on: Literal["worker", "device"] = "device"

    def __init__(self, *, at: int = 0, plus: int = 0, dtype: torch.dtype = torch.int32) -> None:
        self.at, self.plus, self.dtype, self.calls = at, plus, dtype, 0

    def capacity(self, height: int, width: int) -> int:
        return Grid(8).capacity(height, width)

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise RuntimeError(f"call {self.calls}")
        return (Grid(8)(images) + self.plus).to(self.dtype)


def missing() -> Grid:
    raise ImportError("no such library")


def test_scores_are_those_of_the_measures_over_images_that_have_a_truth() -> None:
    images = samples.pixels(3, 48, 48)
    regions = (torch.arange(48)[:, None] // 20 * 3 + torch.arange(48) // 20).int()
    truth = [regions, None, regions > 2]
    grid, seeds = compare({"a": lambda: Grid(7), "b": lambda: Seeds(30)}, images, truth, rounds=2)
    for trial, backend in ((grid, Grid(7)), (seeds, Seeds(30))):
        labels = backend(images)
        assert trial.labels is not None
        assert torch.equal(trial.labels, labels)
        assert trial.scores is not None
        assert trial.fault == ""
        scores = trial.scores
        assert scores.milliseconds > 0
        assert scores.capacity == backend.capacity(48, 48)
        assert scores.used == pytest.approx(sum(len(set(one.flatten().tolist())) for one in labels) / 3)
        assert scores.variation == pytest.approx(float(explained_variation(labels, images).mean()))
        assert scores.apart == pytest.approx(float(apart(labels).mean()))
        for value, measure in (
            (scores.recall, boundary_recall),
            (scores.undersegmentation, undersegmentation_error),
            (scores.accuracy, achievable_accuracy),
        ):
            first, last = measure(labels[:1], regions[None]), measure(labels[2:], (regions > 2)[None])
            assert value == pytest.approx(float(first + last) / 2)
    assert grid.scores is not None
    assert seeds.scores is not None
    assert (grid.scores.requested, seeds.scores.requested) == (None, 30)


def test_merged_superpixels_are_compared_with_the_true_regions() -> None:
    half = torch.arange(32).expand(32, -1) // 16
    noise = torch.randint(0, 40, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = (noise + half * 200).to(torch.uint8)
    found = merged(Grid(4)(images), images, [half, None])
    assert found["color"] == found["neighbors"] == [1, 1, 1]
    assert found["random"][2] < found["random"][0] <= 1
    unknown = torch.full_like(half, -1)
    assert merged(Grid(4)(images), images, [half, unknown]) == found


def test_without_truth_there_is_only_variation() -> None:
    [trial] = compare({"grid": Grid}, samples.pixels(1), [None], rounds=1)
    assert trial.scores is not None
    assert trial.scores[-3:] == (None, None, None)


@pytest.mark.parametrize(
    ("build", "fault"),
    [
        (missing, "ImportError: no such library"),
        (lambda: Faulty(at=1), "RuntimeError: call 1"),
        (lambda: Faulty(at=3), "RuntimeError: call 3"),
        (lambda: Faulty(plus=1), "ContractError: segments have labels from 1 to 16, expected 0 to 15"),
        (lambda: Faulty(plus=-1), "ContractError: segments have labels from -1 to 14, expected 0 to 15"),
        (lambda: Faulty(dtype=torch.int64), "returned torch.int64 of shape (1, 32, 32), expected"),
    ],
)
def test_a_broken_backend_says_why_and_stops_nobody(build: Callable[[], Superpixels], fault: str) -> None:
    trials = compare({"a": Grid, "broken": build, "z": Grid}, samples.pixels(1), [None], rounds=3)
    assert [trial.name for trial in trials] == ["a", "broken", "z"]
    assert fault in trials[1].fault
    assert trials[1].scores is None
    assert trials[1].labels is None
    assert trials[0].scores is not None
    assert trials[2].scores is not None


def test_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        compare({"grid": Grid}, samples.pixels(1), [None], rounds=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(DataError, match="0 images"):
        compare({"grid": Grid}, samples.pixels(1)[:0], [])
    with pytest.raises(DataError, match="2 truths"):
        compare({"grid": Grid}, samples.pixels(1), [None, None])
    with pytest.raises(DataError, match="0 rounds"):
        compare({"grid": Grid}, samples.pixels(1), [None], rounds=0)
