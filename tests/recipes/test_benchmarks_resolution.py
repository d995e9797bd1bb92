"""The benchmark of resolutions prints its table for tiny images; its figures mean nothing."""

from __future__ import annotations

import pytest

from tests.recipes.conftest import Runner


@pytest.mark.recipe
def test_models_and_resolutions_are_measured(recipe: Runner) -> None:
    flags = ["--model", "nano", "--vit", "test_vit", "--sides", "64", "128", "--threads", "1"]
    done = recipe("benchmarks/resolution", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("test_vit") == done.stdout.count("nano") + 1 == 3
    assert "farthest point sampling, 20 of 64 tokens" in done.stdout
    done = recipe("benchmarks/resolution", "--sides", "100")
    assert "expected multiples of 64" in done.stderr
