"""The study of many labels: which rows share runs, and which part of their results a row has."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from castssl.ablations import table
from castssl.ablations.engine import steps_of
from castssl.shipped import recipe

MODULE: dict[str, Any] = runpy.run_path(str(recipe("ablations/multilabel")))


def studies(budget: str = "SMALL", tables: tuple[str, ...] = MODULE["TABLES"]) -> dict[str, Any]:
    found = MODULE["studies"]("demo-many:size=32", MODULE[budget], tables, 2, ["--max-steps", "1"])
    return {study.tables: study for study in found}


@pytest.mark.parametrize("budget", ["SMALL", "PAPER"])
def test_all_tables_share_the_runs_of_hsvlt(budget: str) -> None:
    found = studies(budget)
    assert list(found) == ["heads", "heads-attention", "aggregation", "attention", "blocks"]
    counts = {name: len(steps_of(study.cells())) for name, study in found.items()}
    steps = steps_of([cell for study in found.values() for cell in study.cells()])
    rows = len(MODULE[budget].blocks)
    assert counts == {
        **{"heads": 6, "heads-attention": 4},
        **{"aggregation": 6, "attention": 4, "blocks": 2 * (1 + rows)},
    }
    assert len(steps) == 6 + 4 + 2 + 2 * rows
    shared = {study.cells()[0].steps[0].name for study in found.values()}
    assert len(shared) == 1


def test_a_row_of_new_weights_is_a_part_of_the_results_of_the_trained_one(tmp_path: Path) -> None:
    study = studies()["heads-attention"]
    for number, step in enumerate(steps_of(study.cells())):
        step.folder(tmp_path).mkdir()
        results = {
            "trained": {"attention_on_object_0": 0.3 + number / 100, "area_of_object": 0.1},
            **{"untrained": {"attention_on_object_0": 0.1}, "chance": {"attention_on_object_0": 0.09}},
        }
        (step.folder(tmp_path) / "results.json").write_text(json.dumps(results))
    rows = table.rows(study, tmp_path, {})
    means = {row.values: row.results["attention_on_object_0"].mean for row in rows}
    trunk, segments, objective = MODULE["SMALL"].trunk, MODULE["SMALL"].segments, MODULE["SMALL"].hsvlt
    assert means == pytest.approx(
        {
            (trunk, objective, "trained"): 0.305,
            (segments, objective, "trained"): 0.325,
            (trunk, objective, "new"): 0.1,
            (segments, objective, "new"): 0.1,
        }
    )
    assert "| *chance* |" in table.document(study, tmp_path, rows)


def test_options_follow_those_that_there_are() -> None:
    with_option = MODULE["with_option"]
    assert with_option("multilabel", "blocks=1") == "multilabel:blocks=1"
    assert with_option("multilabel:norm=pre", "blocks=1") == "multilabel:norm=pre,blocks=1"
    flags = [cell.steps[0].flags for cell in studies()["aggregation"].cells()]
    assert [each[-3] for each in flags[::2]] == [
        "multilabel:norm=pre,init=scaled",
        "multilabel:norm=pre,init=scaled,aggregation=none",
        "multilabel:norm=pre,init=scaled,aggregation=hamburger",
    ]
    assert all(each[:2] == ("--data", "demo-many:size=32") for each in flags)
