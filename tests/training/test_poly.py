"""The poly schedule against the rates of the published code."""

from __future__ import annotations

import pytest

from castssl.training.poly import poly


def test_poly_is_the_rate_of_segmenter() -> None:
    steps, rate, least = 161_728, 1e-3, 1e-5
    for step in (0, 1, 50_000, steps - 1, steps):
        expected = (rate - least) * (1 - step / steps) ** 0.9 + least
        assert rate * poly(step / steps, floor=least / rate) == pytest.approx(expected, rel=1e-12)


def test_poly_with_a_warm_up_is_the_rate_of_the_released_voc_code() -> None:
    for step in (0, 1, 50, 99, 100, 101, 29_999):
        line = 0.1 * (1 - step / 100) + step / 100
        expected = min(line, (1 - step / 30_000) ** 0.9) if step < 100 else (1 - step / 30_000) ** 0.9
        got = poly(step / 30_000, warmup=100 / 30_000, start=0.1)
        assert got == pytest.approx(expected, rel=1e-12)


def test_poly_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match=r"progress.*1\.5"):
        poly(1.5)
    with pytest.raises(ValueError, match=r"power: expected 0 or more, got -1"):
        poly(0.5, -1)
