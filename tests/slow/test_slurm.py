"""A job of two nodes that is requeued and starts again, with four launchers in all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.recipes.conftest import Starter
from tests.recipes.test_moco_in1k_lost import STEPS, requeue
from tests.training.processes import lines

pytest_plugins = "tests.recipes.conftest"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the launch file would take the GPUs")
def test_the_same_script_ends_the_run(tmp_path: Path, image_folder: Path, starter: Starter) -> None:
    again = requeue(tmp_path, image_folder, starter)()
    assert again.code() == 0, again.output()
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line][-1] == STEPS
    assert (tmp_path / "run" / "results.json").is_file()
