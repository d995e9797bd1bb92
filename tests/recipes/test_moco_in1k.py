"""The main recipe: a few steps for real, continued, on two processes, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from castssl.checkpoints import load_encoder
from castssl.types import View
from tests.recipes.conftest import Runner, keeps_what_it_leaves

pytestmark = pytest.mark.recipe
FLAGS = [
    *("--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4"),
    *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--hidden", "16", "--out-dim", "8"),
    *("--batch-size", "16", "--lr", "1e-3", "--warmup-epochs", "1", "--workers", "0"),
]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, image_folder: Path, recipe: Runner) -> Path:
    """The folder of a run of two epochs, never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = recipe("moco_in1k", "--data", f"folder:{image_folder}", *FLAGS, "--epochs", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "untrained" in done.stdout
    assert str(out) in done.stdout.replace("\n", "")
    return out


def test_a_run_leaves_what_the_readme_says(whole: Path) -> None:
    assert json.loads((whole / "config.json").read_text())["model"] == "nano"
    steps = [line for line in lines(whole) if "loss" in line]
    assert steps[-1]["step"] == 6
    assert {"match", "images_per_second", "waiting"} <= steps[-1].keys()
    assert {"knn", "match", "object_iou_4"} <= lines(whole)[-1].keys()
    (image,) = (whole / "pictures").iterdir()
    assert Image.open(image).width > 500
    assert list((whole / "checkpoints").iterdir())


def test_the_saved_encoder_is_built_again(whole: Path) -> None:
    encoder = load_encoder(whole)
    assert encoder.config.superpixels.startswith("seeds")
    assert encoder.sizes == (16, 8, 4, 2)
    segments = (torch.arange(32) // 8)[:, None] * 4 + torch.arange(32) // 8
    view = View(torch.randn(1, 3, 32, 32), segments.int()[None])
    assert torch.isfinite(encoder(view).stages[-1].cls).all()


def test_stopped_and_continued_ends_where_it_would_have(
    whole: Path, tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    for limit in ("4", "0"):
        command = [
            "--data",
            f"folder:{image_folder}",
            *FLAGS,
            "--epochs",
            "2",
            "--out",
            str(tmp_path / "run"),
        ]
        done = recipe("moco_in1k", *command, "--max-steps", limit, "--knn-every", "0")
        assert done.returncode == 0, done.stderr[-3000:]
    assert "goes on after step 4" in done.stderr
    expected, got = (load_file(folder / "encoder.safetensors") for folder in (whole, tmp_path / "run"))
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    keeps_what_it_leaves(tmp_path / "run")


@pytest.mark.distributed
def test_two_processes(tmp_path: Path, image_folder: Path, recipe: Runner) -> None:
    flags = [*FLAGS, "--epochs", "2", "--out", str(tmp_path), "--max-steps", "2"]
    done = recipe("moco_in1k", "--data", f"folder:{image_folder}", *flags, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert lines(tmp_path)[0]["processes"] == 2
    assert [line["step"] for line in lines(tmp_path) if "loss" in line][-1] == 2


def test_without_data_it_names_the_two_likely_things(recipe: Runner) -> None:
    done = recipe("moco_in1k")
    assert done.returncode == 2
    assert "--data folder:/path/to/imagenet" in done.stderr
    assert "--data demo" in done.stderr
    assert "Traceback" not in done.stderr


def test_too_many_superpixels_are_refused_before_any_work(
    tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    flags = [*FLAGS, "--epochs", "2", "--out", str(tmp_path), "--sizes", "9", "4", "2"]
    done = recipe("moco_in1k", "--data", f"folder:{image_folder}", *flags)
    assert done.returncode == 2
    assert "16 segments" in done.stderr
    assert "room for 9" in done.stderr
    assert not list(tmp_path.glob("checkpoints/*"))
