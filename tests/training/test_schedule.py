from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch.optim import SGD

from castssl.training.epoch_schedule import epoch_cosine
from castssl.training.schedule import warmup_cosine

shares = st.floats(0, 1)


@pytest.mark.parametrize(
    ("progress", "warmup", "expected"),
    [
        (0.0, 0.1, 0.0),
        (0.05, 0.1, 0.5),
        (0.1, 0.1, 1.0),
        (0.55, 0.1, 0.5),
        (0.325, 0.1, 0.5 + math.sqrt(2) / 4),
        (1.0, 0.1, 0.0),
        (0.0, 0.0, 1.0),
        (0.5, 1.0, 0.5),
        (1.0, 1.0, 1.0),
    ],
)
def test_warmup_cosine_at_closed_form_points(progress: float, warmup: float, expected: float) -> None:
    assert warmup_cosine(progress, warmup) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 300), st.integers(1, 50), st.data())
def test_warmup_cosine_follows_the_epochs_of_moco(epochs: int, batches: int, data: st.DataObject) -> None:
    """MoCo v3 counts in fractional epochs; the same curve must come out of shares."""
    warm = data.draw(st.integers(0, epochs))
    step = data.draw(st.integers(0, epochs * batches - 1))
    epoch = step / batches
    if epoch < warm:
        expected = epoch / warm
    else:
        expected = 0.5 * (1 + math.cos(math.pi * (epoch - warm) / (epochs - warm)))
    assert warmup_cosine(step / (epochs * batches), warm / epochs) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("epoch", "expected"), [(7, 4.9409961e-4), (8, 4.9230287e-4)])
def test_a_floor_reproduces_the_cosine_of_deit(epoch: int, expected: float) -> None:
    assert 5e-4 * warmup_cosine(epoch / 100, 0.0, floor=1e-5 / 5e-4) == pytest.approx(expected, rel=1e-7)


@given(shares, st.floats(0, 0.99), shares)
def test_warmup_cosine_rises_then_falls_to_the_floor(progress: float, warmup: float, floor: float) -> None:
    here = warmup_cosine(progress, warmup, floor)
    assert 0 <= here <= 1 + 1e-12
    later = min(1.0, progress + 0.01)
    if later < warmup:
        assert here <= warmup_cosine(later, warmup, floor)
    if progress >= warmup:
        assert here >= warmup_cosine(later, warmup, floor) - 1e-12
        assert here >= floor - 1e-12


def test_a_warm_up_may_start_above_zero() -> None:
    assert [warmup_cosine(share, 0.5, start=0.2) for share in (0.0, 0.25, 0.5)] == pytest.approx(
        [0.2, 0.6, 1]
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 300), st.integers(1, 40), st.sampled_from([0, 1]), st.data())
def test_epoch_cosine_is_the_scheduler_of_timm(
    epochs: int, batches: int, lag: int, data: st.DataObject
) -> None:
    warm = data.draw(st.integers(0, min(epochs, 20)))
    step = data.draw(st.integers(0, epochs * batches - 1))
    optimizer = SGD([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    timms = CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=1e-5, warmup_t=warm, warmup_lr_init=1e-6, cycle_limit=1
    )
    timms.step(max(step // batches - lag, 0))
    share = step / (epochs * batches)
    rate = 1e-3 * epoch_cosine(share, epochs, warmup=warm, start=1e-3, floor=1e-2, lag=lag)
    assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


def test_the_released_deit_begins_two_epochs_at_the_first_rate() -> None:
    rates = [epoch_cosine(epoch / 300, 300, warmup=5, start=1e-3, lag=1) for epoch in range(8)]
    assert rates[0] == rates[1] == 1e-3
    assert rates[2] == pytest.approx(1e-3 + 0.999 / 5)
    assert max(rates) == rates[6] < 1


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_shares_outside_0_and_1_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"progress.*{value}"):
        warmup_cosine(value, 0.1)
    with pytest.raises(ValueError, match=f"warmup.*{value}"):
        warmup_cosine(0.5, value)
    with pytest.raises(ValueError, match=f"start.*{value}"):
        epoch_cosine(0.5, 10, start=value)
