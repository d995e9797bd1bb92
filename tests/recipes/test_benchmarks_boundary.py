"""The benchmark of the boundary metrics prints its table, and compares the results of both ways."""

from __future__ import annotations

import pytest

from tests.recipes.conftest import Runner


@pytest.mark.recipe
def test_both_ways_are_measured(recipe: Runner) -> None:
    done = recipe("benchmarks/boundary", "--side", "64", "--regions", "6", "--rounds", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("boundary F") == done.stdout.count("boundary IoU") == 2
