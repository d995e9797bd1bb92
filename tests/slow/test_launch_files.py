"""The launch files for FSDP and DeepSpeed; that for DDP is started by tests/training/test_setup.py."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.forked import ROOT
from tests.recipes.conftest import Starter
from tests.recipes.test_moco_in1k import FLAGS
from tests.recipes.test_moco_in1k_lost import EVERY
from tests.training.processes import lines

pytest_plugins = "tests.recipes.conftest"
pytestmark = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="the launch files would take the GPUs"
)
Start = Callable[..., None]


@pytest.fixture
def start(tmp_path: Path, image_folder: Path, starter: Starter) -> Start:
    """Two processes of the main recipe for two steps, by a launch file."""

    def run(name: str, python: Path) -> None:
        launcher = ["-m", "accelerate.commands.launch", "--config_file", f"recipes/launch/{name}.yaml"]
        launcher += ["--num_processes", "2", "--main_process_port", "0", "recipes/moco_in1k.py"]
        flags = ["--data", f"folder:{image_folder}", *FLAGS, *EVERY, "--max-steps", "2"]
        process = starter([str(python), *launcher, *flags, "--out", str(tmp_path / "run")], python=False)
        assert process.code() == 0, process.output()
        assert lines(tmp_path / "run")[0]["processes"] == 2
        assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1, 2]

    return run


def test_fsdp_starts(start: Start) -> None:
    """Without a GPU Accelerate makes data parallel of FSDP; tests/training shards over gloo."""
    start("fsdp", Path(sys.executable))


def test_deepspeed_starts(start: Start, tmp_path: Path) -> None:
    """In an environment over this one: Accelerate imports DeepSpeed in all runs where it finds it."""
    text = (ROOT / "recipes/launch/deepspeed.yaml").read_text(encoding="utf-8")
    (command,) = re.findall(r"pip (install \S+)", text)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    (packages,) = (tmp_path / "env").glob("lib/*/site-packages")
    below = next(path for path in sys.path if Path(path).name == "site-packages")
    (packages / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    pip = [python, "-m", "pip", *command.split()]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    start("deepspeed", python)
