"""A few rounds of the soak; the long one is run by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.forked import ROOT
from tests.soak.soak import RECIPES, soak


def test_every_recipe_that_trains_can_be_killed() -> None:
    assert {*RECIPES, "retrieve_voc"} == {path.stem for path in (ROOT / "recipes").glob("*.py")}


@pytest.mark.recipe
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_every_kill_is_survived(tmp_path: Path) -> None:
    tally = soak(5, seed=1, folder=tmp_path)
    assert not tally.failures
    assert tally.counts["rounds"] == 5
    assert tally.counts["killed mid-checkpoint"] >= 2
    assert tally.counts["resumed"] + tally.counts["new"] == 5
    assert tally.closing().startswith("moco_in1k: 5 kills, ")
