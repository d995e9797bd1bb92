"""The learning rates of the released DeiT and H-CAST code; H-CAST's cosine is fixed to 300 epochs."""

from __future__ import annotations

import pytest

from castssl.training.schedule import warmup_cosine


@pytest.mark.parametrize(
    ("length", "epoch", "expected"),
    [(100, 7, 4.9409961e-4), (100, 8, 4.9230287e-4), (300, 7, 4.9934205e-4), (300, 99, 3.7971515e-4)],
)
def test_the_cosine_between_two_rates(length: int, epoch: int, expected: float) -> None:
    assert 5e-4 * warmup_cosine(epoch / length, 0.0, floor=1e-5 / 5e-4) == pytest.approx(expected, rel=1e-7)
