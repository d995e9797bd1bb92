from __future__ import annotations

import random

import numpy as np
import torch

from castssl.data.rng import seeded


def _draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random_sample()), float(torch.rand(()))  # noqa: NPY002


def _inside(*key: int) -> tuple[float, float, float]:
    with seeded(*key):
        return _draws()


def test_the_same_key_gives_the_same_draws() -> None:
    first = _inside(0, 1, 2)
    _draws()
    assert _inside(0, 1, 2) == first


def test_different_keys_differ_in_every_generator() -> None:
    keys = [(seed, epoch, index) for seed in range(4) for epoch in range(4) for index in range(16)]
    drawn = np.array([_inside(*key) for key in keys])
    for column in drawn.T:
        assert len(set(column)) == len(keys)
    # neighbors are unrelated: a uniform mean, no correlation between successive keys or generators
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.07
    assert np.abs(np.corrcoef(np.hstack([drawn[1:], drawn[:-1]]).T) - np.eye(6)).max() < 0.25


def test_the_outside_goes_on_as_if_nothing_was() -> None:
    def run(fork: bool) -> list[float]:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        drawn = [*_draws(), float(np.random.randn())]  # noqa: NPY002
        if fork:
            _inside(5)
        return [*drawn, float(np.random.randn()), *_draws()]  # noqa: NPY002

    assert run(True) == run(False)


def test_an_error_inside_restores_too() -> None:
    before = torch.get_rng_state()
    try:
        with seeded(3):
            raise RuntimeError
    except RuntimeError:
        pass
    assert torch.equal(torch.get_rng_state(), before)
