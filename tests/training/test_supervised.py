from __future__ import annotations

from typing import Any

import pytest

from castssl.config import read
from castssl.errors import ConfigError
from castssl.training.supervised import SupervisedConfig


def made(*flags: str) -> SupervisedConfig:
    return read(SupervisedConfig, ["--data", "demo", *flags])


def rates(cfg: SupervisedConfig, *epochs: float) -> list[float]:
    return [cfg.peak * cfg.rate(epoch / cfg.epochs) for epoch in epochs]


def test_the_code_s_schedule_is_one_epoch_late_and_ends_above_its_floor() -> None:
    cfg = made()
    assert cfg.peak == pytest.approx(1e-3)
    first, second, third, within = rates(cfg, 0, 1, 2, 2.9)
    assert first == second == pytest.approx(1e-6)
    assert third == within == pytest.approx(1e-6 + (1e-3 - 1e-6) / 5)
    assert 1e-5 < rates(cfg, 299)[0] < 1.02e-5


def test_the_paper_s_schedule_moves_with_every_step_at_half_the_rate() -> None:
    cfg = made("--schedule", "paper")
    assert cfg.peak == pytest.approx(5e-4)
    assert rates(cfg, 0, 2.5, 5, 300) == pytest.approx([1e-6, (1e-6 + 5e-4) / 2, 5e-4, 1e-5])


def test_the_rate_scales_with_the_batch_but_not_its_ends() -> None:
    cfg = made("--batch-size", "128")
    assert cfg.peak == pytest.approx(1.25e-4)
    assert rates(cfg, 0) == pytest.approx([1e-6])


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        (["--min-lr", "0.1"], "--warmup-lr, --min-lr.*0.001 for a batch of 1024"),
        (["--lr", "0"], "--lr: got 0, expected a number above 0"),
        (["--ema", "0", "--branch", "ema"], "--branch ema needs --ema above 0"),
        (["--repeats", "0"], "--repeats: got 0"),
        (["--warmup-epochs", "300"], "--warmup-epochs"),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(flags: list[str], output: str) -> None:
    with pytest.raises(ConfigError, match=output):
        made(*flags)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "seeds:bins=5"),
        (["--model", "vit_small"], "grid:cell=16"),
        (["--superpixels", "grid:cell=8"], "grid:cell=8"),
        (["--model", "nano"], "seeds:count=64,bins=5,iterations=4"),
    ],
)
def test_superpixels_are_the_users_or_the_models_own(flags: Any, expected: str) -> None:
    assert made(*flags).backend("seeds:bins=5") == expected


def test_loading_passes_the_repeats_on() -> None:
    loading = made("--repeats", "2", "--batch-size", "64", "--accumulate", "2", "--workers", "3").loading()
    assert (loading["repeats"], loading["batch_size"], loading["workers"]) == (2, 32, 3)
