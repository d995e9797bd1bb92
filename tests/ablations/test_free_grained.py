"""The study of labels at any level: its rows, and what their runs are started with."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from castssl.ablations.engine import steps_of
from castssl.config import read
from castssl.shipped import recipe
from castssl.training.hierarchy import HierarchyConfig

MODULE: dict[str, Any] = runpy.run_path(str(recipe("ablations/free_grained")))


def studies(drawings: Path | None) -> dict[str, Any]:
    args = argparse.Namespace(data="demo:size=32", drawings=drawings, seeds=2, rest=["--max-steps", "1"])
    return {study.tables: study for study in MODULE["studies"](args)}


def test_the_rows_of_each_table_differ_from_what_they_add_to() -> None:
    found = studies(Path("DIR"))
    assert list(studies(None)) == [name for name in found if name != "drawings-0.8"]
    counts = {name: len(steps_of(study.cells())) for name, study in found.items()}
    expected = {"demo-0": 5, "demo-0.4": 2, "demo-0.8": 8, "demo-0.95": 2}
    expected |= {"demo-0.8-tree-kl": 3, "demo-0.8-pseudo-labels": 3, "drawings-0.8": 3}
    assert counts == {name: 2 * rows for name, rows in expected.items()}, "texts alone: a part of other runs"
    runs = {step.name for study in found.values() for cell in study.cells() for step in cell.steps}
    assert len(runs) == 2 * (5 + 2 + 8 + 2 + 3), "two tables are of the others' runs"
    first = {"demo-0.8-tree-kl": MODULE["TREE_KL"], "demo-0.8-pseudo-labels": MODULE["LABELS_ALONE"]}
    for name, study in found.items():
        assert study.cells()[0].row == (first.get(name, MODULE["SUPERVISED"]), "none", "default")


def test_a_run_has_the_method_the_share_and_the_texts_of_its_row() -> None:
    for study in studies(Path("DIR")).values():
        for cell in study.cells():
            config = read(HierarchyConfig, [*cell.steps[0].flags])
            alone = cell.values["method"] == MODULE["ALONE"]
            assert config.method == (MODULE["TREE_KL"] if alone else cell.values["method"])
            assert cell.part == ("texts" if alone else "trained")
            assert config.hidden()[0] == float(study.hidden)
            assert config.texts == (None if cell.values["texts"] == "none" else "demo")
            assert "level_mean=" in config.method or config.method.startswith("taxon-ssl")
            assert (config.max_steps, config.data) == (1, study.flags[1])
            if cell.values["epochs"] != "default":
                assert config.epochs == int(cell.values["epochs"]) == 16


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--drawings", "/nowhere"], "free_grained: --drawings: there is no /nowhere/train; make the set by"),
        (["--data", "folder:/x"], "free_grained: --data folder:/x: expected demo"),
        (["--seeds", "0"], "argument --seeds: got 0, expected a whole number from 1"),
        (["--jobs", "0"], "argument --jobs: got 0, expected a whole number from 1"),
        (["--jobs", "-1"], "argument --jobs: got -1, expected a whole number from 1"),
    ],
)
def test_what_cannot_run_is_refused_before_any_run(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["free_grained", *flags, "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(recipe("ablations/free_grained")), run_name="__main__")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
