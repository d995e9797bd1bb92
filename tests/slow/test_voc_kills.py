"""The recipes on a small VOCdevkit, killed and continued: they end as runs that were left alone."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.recipes.conftest import Runner, Starter
from tests.recipes.test_voc_folder import RECIPES, flags_of

pytest_plugins = "tests.recipes.conftest"


def begun(out: Path) -> bool:
    """Whether a run has something that it goes on from: a checkpoint, or a column of its table."""
    once = out / "once.json"
    return any(out.glob("checkpoints/*.pt")) or (once.exists() and '"trained"' in once.read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_a_killed_run_ends_as_one_that_was_left_alone(
    name: str, recipe: Runner, starter: Starter, tmp_path: Path
) -> None:
    flags, whole, killed = flags_of(name, tmp_path), tmp_path / "whole", tmp_path / "killed"
    done = recipe(name, *flags, "--out", str(whole))
    assert done.returncode == 0, done.stderr[-3000:]

    started = starter([f"recipes/{name}.py", *flags, "--out", str(killed)])
    while not begun(killed):
        assert started.running(), started.output()
        time.sleep(0.002)
    started.signal(signal.SIGKILL)
    assert started.code() == -signal.SIGKILL
    assert not (killed / "results.json").exists()

    done = recipe(name, *flags, "--out", str(killed))
    assert done.returncode == 0, done.stderr[-3000:]
    assert (killed / "results.json").read_text() == (whole / "results.json").read_text()
    for path in whole.glob("*.safetensors"):
        tensors = load_file(killed / path.name)
        assert all(torch.equal(tensors[key], value) for key, value in load_file(path).items())
