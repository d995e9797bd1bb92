from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes.conftest import Runner

pytestmark = pytest.mark.recipe
FLAGS = (
    "--model nano --image-size 32 --sizes 16 8 4 --superpixels seeds:count=16,bins=5,iterations=2 --hidden 16"
    + (" --out-dim 8 --batch-size 16 --workers 0 --warmup-epochs 1 --epochs 4")
)


def test_a_recipe_is_measured_by_its_own_log(image_folder: Path, recipe: Runner) -> None:
    flags = ["--data", f"folder:{image_folder}", "--steps", "3", "--every", "1", "--processes", "1"]
    done = recipe("benchmarks/train", *flags, f"--flags={FLAGS}")
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("│ 1"))
    speed, waiting, memory, advice = [cell.strip() for cell in line.split("│")[2:-1]]
    assert float(speed) > 0
    assert float(waiting.removesuffix("%")) <= 100
    assert 0.1 < float(memory) < 64
    assert "--workers" in advice or not advice


def test_a_recipe_that_fails_is_shown(recipe: Runner) -> None:
    done = recipe("benchmarks/train", "--recipe", "nonsense", "--processes", "1")
    assert done.returncode == 1
    assert "gave no report of step 30" in done.stderr
    assert "nonsense" in done.stderr
    assert "┃" not in done.stdout


def test_there_must_be_two_reports(recipe: Runner) -> None:
    done = recipe("benchmarks/train", "--steps", "5", "--every", "3")
    assert done.returncode == 2
    assert "--every: got 3, expected 1 to half of the 5 steps" in done.stderr
