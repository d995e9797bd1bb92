from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castssl.training.schedule import cosine_rise, warmup_cosine

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


@pytest.mark.parametrize(("progress", "expected"), [(0, 0.99), (0.5, 0.995), (1, 1.0), (1 / 3, 0.9925)])
def test_cosine_rise_at_closed_form_points(progress: float, expected: float) -> None:
    assert cosine_rise(progress, 0.99) == pytest.approx(expected, abs=1e-12)


@given(shares, shares)
def test_cosine_rise_never_falls(progress: float, start: float) -> None:
    here = cosine_rise(progress, start)
    assert start - 1e-12 <= here <= cosine_rise(min(1.0, progress + 0.01), start) + 1e-12


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_shares_outside_0_and_1_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"progress.*{value}"):
        warmup_cosine(value, 0.1)
    with pytest.raises(ValueError, match=f"warmup.*{value}"):
        warmup_cosine(0.5, value)
    with pytest.raises(ValueError, match=f"start.*{value}"):
        cosine_rise(0.5, value)
