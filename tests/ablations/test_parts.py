"""The study of parts: which encoders it takes over, and which rows need none."""

from __future__ import annotations

import runpy
from collections import Counter
from typing import Any

from castssl.ablations.engine import steps_of
from castssl.shipped import recipe

PARTS: dict[str, Any] = runpy.run_path(str(recipe("ablations/parts")))
TRANSFER: dict[str, Any] = runpy.run_path(str(recipe("ablations/transfer")))


def test_the_encoders_are_those_of_the_study_of_transfer() -> None:
    data = TRANSFER["Data"]("demo:size=32", "demo-maps:size=32", 8)
    steps = steps_of([cell for study in TRANSFER["studies"](data, "demo", 2, []) for cell in study.cells()])
    cells = PARTS["study"]("demo:size=32", 8, "demo", 2, []).cells()
    pretrained = [step for cell in cells for step in cell.steps if step.recipe.stem == "moco_in1k"]
    assert len(pretrained) == 4
    assert {step.name for step in pretrained} <= {step.name for step in steps}


def test_colors_have_one_run_and_no_weights() -> None:
    cells = PARTS["study"]("demo", 8, "demo", 3, []).cells()
    rows = Counter(cell.row for cell in cells)
    assert rows == {
        **{
            (model, weights): 3 for model in ("nano_seg", "nano_vit_seg") for weights in ("pretrained", "new")
        },
        **{("merge", "none"): 1, ("random", "none"): 3},
    }
    for cell in cells:
        *before, last = cell.steps
        weights = cell.values["weights"]
        assert [step.recipe.stem for step in before] == ["moco_in1k"] * (weights == "pretrained")
        assert ("--model" in last.flags) == (weights == "new")
        assert last.after == (before[0] if before else None)
    assert len(steps_of(cells)) == 6 + len(cells)


def test_drawings_have_no_columns_of_parts() -> None:
    study = PARTS["study"]("folder:DIR", 32, "drawings", 1, [])
    assert not [name for name in study.columns if name.startswith("part")]
    assert study.tables == "drawings-parts"
