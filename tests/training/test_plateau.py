"""The plateau: torch's own rule, an end by the released code's count, and a state that goes on."""

from __future__ import annotations

import json
from math import inf

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from castssl.training.plateau import Plateau

VALUES = [0.1, 0.3, 0.30001, 0.3, 0.2, 0.31, 0.31, 0.31, 0.31, 0.31, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("lr", [1e-5, 0.1])
def test_the_rate_is_that_of_torch(lr: float, patience: int) -> None:
    """Also where torch's rule no longer moves a rate that is small."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=lr)
    theirs, ours = ReduceLROnPlateau(optimizer, mode="max", patience=patience), Plateau(lr, patience=patience)
    rates = []
    for value in VALUES:
        theirs.step(value)
        ours.step(value)
        rates.append(ours.factor * lr)
        assert rates[-1] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert rates[-1] < rates[0]


def test_it_ends_after_so_many_measures_that_are_not_above_the_best() -> None:
    """Equal to the best is no rise, and the smallest rise is one."""
    plateau = Plateau(1.0, stop_after=4)
    for value in [0.5, 0.5, 0.4, 0.3, 0.50001, 0.1, 0.1, 0.50001]:
        plateau.step(value)
        assert not plateau.stopped
    plateau.step(0.2)
    assert "the last 4 was above 0.5" in plateau.stopped
    assert plateau.factor == 1


def test_nothing_measured_changes_nothing() -> None:
    plateau = Plateau(1.0, patience=0, stop_after=1)
    for _ in range(3):
        plateau.step(None)
    assert (plateau.factor, plateau.best, plateau.stopped) == (1, -inf, "")


def test_a_fall_while_the_rate_still_rises_is_given_up() -> None:
    plateau = Plateau(1.0, patience=0)
    plateau.step(0.5, warming=True)
    plateau.step(0.5, warming=True)
    assert plateau.factor == 1
    plateau.step(0.5)
    assert plateau.factor == pytest.approx(0.1)


@pytest.mark.parametrize("at", range(len(VALUES)))
def test_continued_from_its_state_it_goes_on_as_if_never_stopped(at: int) -> None:
    whole, first = (Plateau(1e-3, patience=1, stop_after=5) for _ in range(2))
    for value in VALUES[:at]:
        whole.step(value)
        first.step(value)
    second = Plateau(1e-3, patience=1, stop_after=5)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for value in VALUES[at:]:
        whole.step(value)
        second.step(value)
        assert second.state_dict() == whole.state_dict()
    assert whole.stopped


def test_a_measure_is_not_compared_with_those_of_other_evaluation_settings() -> None:
    """The mAP of the first images is 0.9, that of the second ones rises from 0.1 to 0.3."""
    first = Plateau(1e-3, patience=0, stop_after=2, measured_with=" --val folder:a")
    for value in (0.9, 0.8):
        first.step(value)
    assert first.factor == pytest.approx(0.1)
    state = json.loads(json.dumps(first.state_dict()))
    other = Plateau(1e-3, patience=0, stop_after=2, measured_with=" --val folder:b")
    other.load_state_dict(state)
    for value in (0.1, 0.2, 0.3):
        other.step(value)
        assert other.factor == pytest.approx(0.1), "the rate stays"
        assert not other.stopped
    other.step(0.3)
    other.step(0.3)
    assert "above 0.3" in other.stopped
    ended = Plateau(1e-3, patience=0, stop_after=2)
    ended.load_state_dict(other.state_dict())
    assert ended.stopped == other.stopped, "the end stays"
    del state["measured_with"]
    earlier = Plateau(1e-3, patience=0, stop_after=2, measured_with=" --val folder:b")
    earlier.load_state_dict(state)
    earlier.step(0.1)
    assert "above 0.9" in earlier.stopped, "a checkpoint of an earlier version"
