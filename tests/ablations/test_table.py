"""Tables against numbers reckoned by hand, and the files that a study leaves."""

from __future__ import annotations

import csv
import math
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from castssl.ablations import engine, table
from castssl.ablations.engine import Jobs
from castssl.ablations.grid import Study
from castssl.ablations.study import main, write
from castssl.cli import main as castssl

RECIPE = Path(__file__).with_name("recipe.py")
GRID = {"pooling": ["graph", "tome", "broken"], "seed": ["0", "1", "2"]}


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(title="Which pooling?", recipe=RECIPE, grid=GRID, flags=["--fail", "broken"])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Path:
    folder = tmp_path_factory.mktemp("study")
    list(engine.run(engine.steps_of(study.cells()), folder, Jobs(folder, at_once=2), at_once=2))
    write(study, folder, measure=False)
    return folder


def test_rows_are_means_and_deviations_over_seeds(study: Study, out: Path) -> None:
    graph, tome, broken = table.rows(study, out, {("graph",): {"ms": 1.0}})
    assert graph.values == ("graph",)
    assert graph.results["accuracy"] == pytest.approx((0.06, statistics.stdev([0.05, 0.06, 0.07]), 3))
    assert tome.results["accuracy"].mean == pytest.approx(0.05)
    assert (broken.results, broken.finished, broken.cells) == ({}, 0, 3)
    assert (graph.cost, tome.cost) == ({"ms": 1.0}, {})
    assert math.isnan(table.spread([3.0]).deviation)
    assert table.spread([0.03]).shown("accuracy") == "3.0"


def test_the_table_has_references_failures_and_commands(out: Path) -> None:
    text = (out / "table.md").read_text()
    assert "| graph | 6.0 ± 1.0 | 8.0 ± 0.0 | 3 |" in text
    assert "| broken | – | – | 0 of 3 |" in text
    assert "| *chance* | 1.0 | – |  |" in text
    assert text.count("the reason why") == 3
    commands = text.partition("```bash\n")[2].partition("```")[0].splitlines()
    assert len(commands) == 9
    again = commands[0].split()
    subprocess.run([sys.executable, *again[1:]], check=True)


def test_the_csv_has_a_line_a_cell(out: Path) -> None:
    lines = list(csv.DictReader((out / "cells.csv").read_text().splitlines()))
    assert [line["finished"] for line in lines] == ["True"] * 6 + ["False"] * 3
    assert [line["accuracy"] for line in lines[:3]] == ["0.05", "0.06", "0.07"]
    assert "--seed 1" in lines[1]["command"]


def test_the_image_can_be_looked_at(out: Path) -> None:
    assert Image.open(out / "table.png").width > 300


def test_a_file_of_recipes_ablations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = Study(title="t", recipe=RECIPE, grid={"pooling": ["graph"], "seed": ["0"]}, flags=["--quick"])
    large = Study(title="t", recipe=RECIPE, grid={"pooling": ["graph"]})
    argv = ["--out", str(tmp_path), "--dry-run", "--seeds", "2"]
    assert main(large, demo=small, argv=["--data", "demo:size=32", *argv, "--", "--wait", "1"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert len(output) == 2
    assert "--data demo:size=32 --quick --wait 1 --pooling graph --seed 1" in output[1]
    assert main(large, demo=small, argv=["--data", "folder:x", *argv, "--cluster", "slurm"]) == 0
    assert "slurm" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_recipe_without_images_takes_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timing = Study(title="t", recipe=RECIPE, grid={"pooling": ["graph"]}, data=False)
    argv = ["--out", str(tmp_path), "--dry-run"]
    assert main(timing, demo=replace(timing, flags=["--quick"]), argv=argv) == 0
    assert main(timing, demo=replace(timing, flags=["--quick"]), argv=["--data", "demo", *argv]) == 0
    whole, small = capsys.readouterr().out.splitlines()
    assert "--data" not in whole + small
    assert "--quick" in small
    assert "--quick" not in whole


def test_the_command_refuses_a_recipe_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert castssl(["ablate", "--recipe", "nowhere", "--grid", "seed=0"]) == 1
    assert "recipes/moco_in1k.py" in capsys.readouterr().err
