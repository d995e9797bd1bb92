"""The benchmark of Table 7 prints its table; its settings are tiny here, and its figures mean nothing."""

from __future__ import annotations

import re

import pytest

from tests.recipes.conftest import Runner

pytestmark = pytest.mark.recipe


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]


def test_each_stage_is_measured_beside_the_paper(recipe: Runner) -> None:
    done = recipe("benchmarks/stages", "--batch", "1", "--rounds", "1", "--threads", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"\d+ cores, 1 threads?, torch \d", done.stdout.splitlines()[0])
    found = rows(done.stdout)
    assert [row[0] for row in found] == ["196", "64", "32", "16"]
    for row in found:
        blocks, pooling, sampling = map(float, row[1:4])
        assert blocks > 0
        assert 0 < sampling < pooling
    assert found[0][5:] == ["86.43", "63.02", "37.64"]


def test_another_pooling_samples_nothing_and_has_no_figure_of_the_papers(recipe: Runner) -> None:
    done = recipe(
        "benchmarks/stages", "--model", "nano", "--pooling", "random", "--batch", "1", "--rounds", "1"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for row in rows(done.stdout):
        assert row[3:] == [""] * 5
