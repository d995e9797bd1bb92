"""The study of dense transfer: which runs follow which, and which part of their results a row has."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from castssl.ablations import table
from castssl.ablations.engine import steps_of
from castssl.errors import ConfigError
from castssl.shipped import recipe

MODULE: dict[str, Any] = runpy.run_path(str(recipe("ablations/transfer")))


def studies(kind: str = "demo") -> dict[str, Any]:
    data = MODULE["Data"]("demo:size=32", "demo-maps:size=32", 8)
    return {study.tables: study for study in MODULE["studies"](data, kind, 2, [])}


def test_all_tables_share_the_pretrained_encoders() -> None:
    found = studies()
    assert list(found) == [
        *("demo-retrieval", "demo-linear", "demo-segmenter"),
        *("demo-fused", "demo-queries", "demo-frozen-queries"),
    ]
    steps = steps_of([cell for study in found.values() for cell in study.cells()])
    # 4 models and 2 seeds; linear: also new weights, and colors; the other heads: 2 models, one seed.
    assert Counter(step.recipe.stem for step in steps) == {
        **{"moco_in1k": 8, "retrieve_voc": 8},
        "segment": (8 + 8 + 2) + 8 + 3 * 2,
    }
    assert list(studies("drawings")) == ["drawings-linear"]


def test_new_weights_and_colors_follow_no_run() -> None:
    cells = {tuple(cell.values.values()): cell for cell in studies()["demo-linear"].cells()}
    first, then = cells["nano_vit_seg", "pretrained", "1"].steps
    assert then.after == first
    assert first.flags[-4:-2] == ("--model", "nano_vit_seg")
    (new,) = cells["nano_vit_seg", "new", "1"].steps
    assert new.after is None
    assert new.flags == then.flags
    (colors,) = cells["colors:64", "none", "1"].steps
    assert "--superpixels" in colors.flags


def test_retrieval_reads_a_part_of_the_results_for_each_row(tmp_path: Path) -> None:
    study = studies()["demo-retrieval"]
    parts = {"trained": 0.3, "untrained": 0.2, "mean color": 0.1, "majority": 0.05}
    for number, step in enumerate(steps_of(study.cells())):
        step.folder(tmp_path).mkdir()
        results = {part: {"miou": value + number / 1000} for part, value in parts.items()}
        results = {"trained": {"knn": 0.5}} if step.after is None else results
        (step.folder(tmp_path) / "results.json").write_text(json.dumps(results))
    rows = table.rows(study, tmp_path, {})
    means = {row.values: row.results["miou"].mean for row in rows}
    assert means["nano_seg", "new"] == pytest.approx(means["nano_seg", "pretrained"] - 0.1)
    assert means["colors:64", "none"] == pytest.approx(means["nano_seg", "pretrained"] - 0.2)
    text = table.document(study, tmp_path, rows)
    assert "| *majority* |" in text
    assert "mean color" not in text


def test_drawings_are_linked_as_pairs(tmp_path: Path) -> None:
    for name in ("train", "val", "masks/train", "masks/val"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for _ in range(2):
        data = MODULE["linked"](tmp_path / "set", tmp_path / "out")
    assert data.maps == f"pairs:{tmp_path / 'out' / 'drawings'}?values=0,255"
    assert (tmp_path / "out/drawings/labels/val").resolve() == tmp_path / "set/masks/val"
    link = tmp_path / "out/drawings/images/val"
    for linked in (True, False):
        link.unlink()
        if linked:
            link.symlink_to(tmp_path / "set/train")
        else:
            link.write_text("mine")
        with pytest.raises(ConfigError, match=r"images/val exists, and is not a link to .*; choose another"):
            MODULE["linked"](tmp_path / "set", tmp_path / "out")
    assert link.read_text() == "mine"
    with pytest.raises(ConfigError, match=r"--drawings: there is no .*train; make the set by"):
        MODULE["linked"](tmp_path, tmp_path / "out")
