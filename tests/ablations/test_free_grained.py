"""The study of labels at any level: its rows, and what their runs are started with."""

from __future__ import annotations

import argparse
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

from castssl.ablations.engine import steps_of
from castssl.config import read
from castssl.shipped import recipe
from castssl.training.hierarchy import HierarchyConfig

MODULE: dict[str, Any] = runpy.run_path(str(recipe("ablations/free_grained")))


def studies(drawings: Path | None) -> dict[str, Any]:
    args = argparse.Namespace(data="demo:size=32", drawings=drawings, seeds=2, rest=["--max-steps", "1"])
    return {study.tables: study for study in MODULE["studies"](args)}


def test_drawings_have_a_table_of_their_own() -> None:
    assert list(studies(None)) == ["demo"]
    found = studies(Path("DIR"))
    counts = {name: len(steps_of(study.cells())) for name, study in found.items()}
    assert counts == {"demo": 2 * 14, "drawings": 2 * 3}, "texts alone are a part of other runs"
    assert Counter(cell.values["hidden"] for cell in found["demo"].cells()) == {
        **{"0": 12, "0.8": 12},
        **{"0.4": 4, "0.95": 4},
    }


def test_a_run_has_the_method_the_share_and_the_texts_of_its_row() -> None:
    for study in studies(Path("DIR")).values():
        for cell in study.cells():
            config = read(HierarchyConfig, [*cell.steps[0].flags])
            alone = cell.values["method"] == MODULE["ALONE"]
            assert config.method == (MODULE["TREE_KL"] if alone else cell.values["method"])
            assert cell.part == ("texts" if alone else "trained")
            assert config.hidden()[0] == float(cell.values["hidden"])
            assert config.texts == (None if cell.values["texts"] == "none" else "demo")
            assert "level_mean=labelled" in config.method or config.method == "taxon-ssl"
            assert (config.max_steps, config.data) == (1, study.flags[1])
