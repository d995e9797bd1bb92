"""The launch files for FSDP and DeepSpeed; that for DDP is started by tests/training/test_setup.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.recipes.conftest import Starter
from tests.recipes.test_moco_in1k import FLAGS
from tests.recipes.test_moco_in1k_lost import EVERY
from tests.training.processes import lines

pytest_plugins = "tests.recipes.conftest"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the launch file would take the GPUs")
@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_the_launch_files_start(name: str, tmp_path: Path, image_folder: Path, starter: Starter) -> None:
    """Without a GPU Accelerate makes data parallel of FSDP; tests/training shards over gloo."""
    if name == "deepspeed":
        pytest.importorskip("deepspeed")
    launcher = ["-m", "accelerate.commands.launch", "--config_file", f"recipes/launch/{name}.yaml"]
    launcher += ["--num_processes", "2", "--main_process_port", "0", "recipes/moco_in1k.py"]
    flags = ["--data", f"folder:{image_folder}", *FLAGS, *EVERY, "--out", str(tmp_path), "--max-steps", "2"]
    process = starter([*launcher, *flags])
    assert process.code() == 0, process.output()
    assert lines(tmp_path)[0]["processes"] == 2
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [1, 2]
