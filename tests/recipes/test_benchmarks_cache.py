"""The benchmarks refuse a number of rounds that has no median before they measure anything."""

from __future__ import annotations

import pytest

from castssl.errors import ConfigError
from recipes.benchmarks import boundary, cache, dense, model, resolution, stages
from recipes.benchmarks import input as views


def test_the_first_round_fills_the_cache_and_does_not_count() -> None:
    with pytest.raises(ConfigError, match="--rounds: got 1, expected 2 or more"):
        cache.main(cache.Config(rounds=1))


def test_no_round_has_no_median() -> None:
    message = "--rounds: got 0, expected 1 or more"
    with pytest.raises(ConfigError, match=message):
        boundary.main(boundary.Config(rounds=0))
    with pytest.raises(ConfigError, match=message):
        dense.main(dense.Config(rounds=0))
    with pytest.raises(ConfigError, match=message):
        model.main(model.Config(rounds=0))
    with pytest.raises(ConfigError, match=message):
        resolution.main(resolution.Config(rounds=0))
    with pytest.raises(ConfigError, match=message):
        stages.main(stages.Config(rounds=0))
    with pytest.raises(ConfigError, match=message):
        views.main(views.Config(rounds=0))
