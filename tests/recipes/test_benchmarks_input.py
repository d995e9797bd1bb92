"""The input benchmark with tiny settings: a row a pipeline, and what must hold on any machine."""

from __future__ import annotations

import re

import pytest

from tests.recipes.conftest import Runner

pytestmark = pytest.mark.recipe
TINY = ["--size", "64", "--images", "2", "--rounds", "1", "--masks", "demo:size=32,per_class=6"]


def test_prints_a_row_for_each_pipeline(recipe: Runner) -> None:
    done = recipe("benchmarks/input", *TINY, "--superpixels", "seeds", "seeds-fast", "grid:runs_on=worker")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {
        row[0].strip(): [float(cell) for cell in row[1:]]
        for line in done.stdout.splitlines()
        if len(row := re.split("│", line.strip(" │"))) == 9
    }
    assert list(rows) == ["published", "seeds", "seeds-fast", "grid:runs_on=worker"]
    decode, augment, superpixels, speed, ratio, explained, parted, recall = zip(*rows.values(), strict=True)
    assert ratio[0] == 1
    assert all(min(column) > 0 for column in (decode, augment, superpixels, recall))
    for at in range(4):
        assert speed[at] == pytest.approx(1000 / (decode[at] + augment[at] + superpixels[at]), rel=0.05)
    assert explained[0] == explained[1], "seeds has the published labels"
    assert explained[2] > explained[0] > explained[3]
    assert parted[2] > max(parted[0], parted[3])
    assert superpixels[2] < superpixels[0]
