"""A job of two nodes that is requeued and starts again, with four launchers in all."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.forked import free_port
from tests.recipes.conftest import Started, Starter, children
from tests.recipes.test_moco_in1k import FLAGS
from tests.recipes.test_moco_in1k_lost import (
    EVERY,
    JOB,
    SCONTROL,
    SRUN,
    STEPS,
    equal,
    start,
    wait_for_step,
    write_programs,
)
from tests.training.processes import lines

pytest_plugins = "tests.recipes.conftest"


def requeue(tmp_path: Path, image_folder: Path, starter: Starter) -> Callable[[], Started]:
    """Start a job of two nodes and tell it that its time is over; what starts the same job comes back."""
    out, programs = tmp_path / "run", write_programs(tmp_path / "programs", srun=SRUN, scontrol=SCONTROL)
    (programs / "accelerate").symlink_to(Path(sys.executable).with_name("accelerate"))
    words = ["recipes/moco_in1k.py", "--data", f"folder:{image_folder}", *FLAGS, *EVERY, "--out", str(out)]
    batch = ["bash", "recipes/launch/slurm.sbatch", *words]
    process = starter(batch, python=False, path=programs, PORT=str(free_port()), **JOB)
    wait_for_step(process, out, 1)
    for child in children(process.pid, "srun"):
        os.kill(child, signal.SIGUSR1)
    assert process.code() != 0
    assert (programs / "asked").read_text().splitlines() == ["show hostnames cpu[1-2]", "requeue 4711"]
    assert "job 4711 is requeued and goes on from there" in process.output()
    assert [line["reason"] for line in lines(out) if line.get("event") == "stopped"] == ["SIGUSR1"]
    return lambda: starter(batch, python=False, path=programs, PORT=str(free_port()), **JOB)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the launch file would take the GPUs")
def test_the_same_script_ends_the_run(tmp_path: Path, image_folder: Path, starter: Starter) -> None:
    again = requeue(tmp_path, image_folder, starter)()
    assert again.code() == 0, again.output()
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line][-1] == STEPS
    assert (tmp_path / "run" / "results.json").is_file()
    undisturbed = tmp_path / "undisturbed"
    assert start(undisturbed, image_folder, world=2).code() == 0
    equal(tmp_path / "run", undisturbed)
