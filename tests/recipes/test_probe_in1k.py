"""The linear probe: a few steps for real, continued, on two processes, with other sizes, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.models.create import create
from tests.recipes.conftest import Runner, keeps_what_it_leaves

pytestmark = pytest.mark.recipe
FLAGS = ["--batch-size", "16", "--lr", "0.8", "--epochs", "2", "--workers", "0"]
SHAPE: dict[str, Any] = {"image_size": 32, "sizes": (16, 8, 4)}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder as a finished run leaves it."""
    torch.manual_seed(0)
    superpixels = "seeds:count=16,bins=5,iterations=2"
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    return save_encoder(create("nano", superpixels=superpixels, **SHAPE), path)


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, weights: Path, image_folder: Path, recipe: Runner
) -> Path:
    """The folder of a run of two epochs, never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    flags = ["--data", f"folder:{image_folder}", "--weights", str(weights.parent), *FLAGS]
    done = recipe("probe_in1k", *flags, "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    words = ("trained", "best", "untrained", "chance", "top-1 accuracy", "kNN accuracy")
    assert all(word in done.stdout for word in words), done.stdout
    return out


def test_the_head_is_trained_and_the_encoder_is_not(whole: Path, weights: Path) -> None:
    found = json.loads((whole / "results.json").read_text())
    assert {"top1", "top5", "knn", "match", "object_iou_16"} <= found["trained"].keys()
    assert found["best"]["top1"] == max(line["top1"] for line in lines(whole) if "top1" in line)
    state = torch.load(max((whole / "checkpoints").iterdir()), weights_only=True)["module"]
    for name, value in load_file(weights).items():
        assert torch.equal(state[f"model.encoder.{name}"], value)
    head = load_file(whole / "probe.safetensors")
    assert torch.equal(head["weight"], state["model.head.weight"])
    assert head["bias"].any()


def test_castssl_evaluate_gives_the_final_table(whole: Path, image_folder: Path, tmp_path: Path) -> None:
    flags = ["--weights", str(whole), "--workers", "0", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["evaluate", f"folder:{image_folder}", *flags]) == 0
    found = json.loads((tmp_path / "results.json").read_text())["trained"]
    recipe = json.loads((whole / "results.json").read_text())["trained"]
    names = ("top1", "top5", "top1_balanced")
    assert [found[name] for name in names] == [recipe[name] for name in names]


def test_the_rate_is_the_reference_s(whole: Path) -> None:
    # 0.8 for 256 images; the second of two epochs is at half of a cosine.
    assert lines(whole)[-2]["rate"] == pytest.approx(0.8 * 16 / 256 * 0.5)


def test_stopped_and_continued_ends_where_it_would_have(
    whole: Path, weights: Path, tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    for limit in ("4", "0"):
        command = ["--data", f"folder:{image_folder}", "--weights", str(weights.parent), *FLAGS]
        done = recipe("probe_in1k", *command, "--out", str(tmp_path / "run"), "--max-steps", limit)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "goes on after step 4" in done.stderr
    expected, got = (load_file(folder / "probe.safetensors") for folder in (whole, tmp_path / "run"))
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    keeps_what_it_leaves(tmp_path / "run")


@pytest.mark.distributed
def test_two_processes_with_other_sizes(
    weights: Path, tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    flags = [*FLAGS, "--out", str(tmp_path), "--max-steps", "2"]
    sizes = ["--superpixels", "grid:cell=4", "--sizes", "64", "16", "8"]
    command = ["--data", f"folder:{image_folder}", "--weights", str(weights), *flags, *sizes]
    done = recipe("probe_in1k", *command, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert lines(tmp_path)[0]["processes"] == 2
    assert {"object_iou_64", "object_iou_8"} <= json.loads((tmp_path / "once.json").read_text())[
        "encoder"
    ].keys()


def test_without_data_and_weights_both_are_asked_for(recipe: Runner) -> None:
    done = recipe("probe_in1k")
    assert done.returncode == 2
    assert "--data folder:/path/to/imagenet" in done.stderr
    assert "--weights RUN/encoder.safetensors" in done.stderr
    assert "Traceback" not in done.stderr


def test_too_many_superpixels_are_refused_before_any_work(
    weights: Path, tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    flags = ["--data", f"folder:{image_folder}", "--weights", str(weights), "--sizes", "9", "4", "2"]
    done = recipe("probe_in1k", *flags, *FLAGS, "--out", str(tmp_path))
    assert done.returncode == 2
    assert "room for 9" in done.stderr
    assert "Traceback" not in done.stderr
