"""A study: cost is measured once and kept with its conditions; chance has no deviation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import castssl
from castssl.checkpoints.native import save_encoder
from tests.acceptance.conftest import Command

RECIPE = """
import argparse, json, pathlib, shutil
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path)
parser.add_argument("--seed", type=int)
parser.add_argument("--encoder")
given = parser.parse_args()
given.out.mkdir(parents=True, exist_ok=True)
shutil.copy(given.encoder, given.out / "encoder.safetensors")
found = {"trained": {"top1": 0.5 + given.seed / 10}, "majority": {"top1": 0.4}, "chance": {"top1": 0.125}}
(given.out / "results.json").write_text(json.dumps(found))
"""


def test_milliseconds_are_measured_once_and_chance_has_no_deviation(command: Command, tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(RECIPE)
    shape: dict[str, Any] = {"image_size": 32, "sizes": (16, 8, 4, 2)}
    save_encoder(castssl.create("nano", **shape), tmp_path / "e.safetensors")
    study = ["ablate", "--recipe", tmp_path / "recipe.py", "--out", tmp_path / "out", "--jobs", "2"]
    grid = ["--grid", "seed=0,1"]
    flags = ["--", "--encoder", tmp_path / "e.safetensors"]
    asked = [*study, *grid, "--columns", "all", *flags]
    assert command(*asked).code == 0
    first = (tmp_path / "out" / "table.md").read_text()
    (kept,) = (tmp_path / "out").glob("*/cost.json")
    known = json.loads(kept.read_text())
    assert known["ms"] > 0
    assert known["conditions"] in first
    kept.write_text(json.dumps(known | {"ms": 123.0}))
    assert command(*asked).code == 0
    assert re.search(r"\| 123 \|", (tmp_path / "out" / "table.md").read_text())
    assert command(*study, *grid, *flags).code == 0
    again = (tmp_path / "out" / "table.md").read_text()
    assert not re.search(r"\| 123 \|", again)
    assert "| *chance* | 12.5 |" in again
    assert "± 0.0" not in again
    assert "*majority*" in again
