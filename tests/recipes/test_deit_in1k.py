"""Training with labels: a few steps for real, continued, on two processes, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from castssl.checkpoints import read
from castssl.cli import main
from tests.recipes.conftest import Runner, keeps_what_it_leaves

pytestmark = pytest.mark.recipe
FLAGS = [
    *("--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4"),
    *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--batch-size", "16", "--lr", "0.3"),
    *("--warmup-epochs", "1", "--ema", "0.5", "--branch", "ema", "--epochs", "3"),
]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, image_folder: Path, recipe: Runner) -> Path:
    """The folder of a run of three epochs, never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    flags = ["--data", f"folder:{image_folder}", *FLAGS, "--workers", "0", "--out", str(out)]
    done = recipe("deit_in1k", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    words = ("trained", "best", "untrained", "chance", "top-1 accuracy", "kNN accuracy")
    assert all(word in done.stdout for word in words), done.stdout
    return out


def test_a_run_leaves_what_the_readme_says(whole: Path) -> None:
    reports = lines(whole)
    assert [line["step"] for line in reports if "top1" in line] == [3, 6, 9]
    assert {"knn", "match", "object_iou_4"} <= reports[-1].keys()
    found = json.loads((whole / "results.json").read_text())
    assert found["best"]["top1"] == max(line["top1"] for line in reports if "top1" in line)
    assert found["trained"]["top1"] == pytest.approx(
        next(r["top1"] for r in reversed(reports) if "top1" in r)
    )
    assert found["chance"]["top5"] == 5 / 8
    assert list((whole / "pictures").iterdir())


def test_the_average_that_was_evaluated_is_what_is_saved(whole: Path) -> None:
    saved = read(whole)
    assert saved.config.positions == "learned"
    checkpoint = max((whole / "checkpoints").iterdir())
    state = torch.load(checkpoint, weights_only=True)["module"]
    for name, value in saved.encoder.items():
        assert torch.equal(value, state[f"average.module.encoder.{name}"])
    assert torch.equal(saved.heads["head.weight"], state["average.module.head.weight"])
    assert not torch.equal(saved.heads["head.weight"], state["model.head.weight"])


def test_castssl_evaluate_gives_the_final_table(whole: Path, image_folder: Path, tmp_path: Path) -> None:
    flags = ["--weights", str(whole), "--workers", "0", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["evaluate", f"folder:{image_folder}", *flags]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    recipe = json.loads((whole / "results.json").read_text())
    shared = found["trained"].keys() & recipe["trained"].keys()
    assert {"top1", "top5"} <= shared
    assert {name: found["trained"][name] for name in shared} == {
        name: recipe["trained"][name] for name in shared
    }


def test_stopped_and_continued_ends_where_it_would_have(
    whole: Path, tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    """Within an epoch, with other workers: mixing, drop path and repeats go on as if nothing had happened."""
    for limit, workers in (("4", "1"), ("0", "0")):
        command = [
            "--data",
            f"folder:{image_folder}",
            *FLAGS,
            "--workers",
            workers,
            "--out",
            str(tmp_path / "run"),
        ]
        done = recipe("deit_in1k", *command, "--max-steps", limit, "--knn-every", "0")
        assert done.returncode == 0, done.stderr[-3000:]
    assert "goes on after step 4" in done.stderr
    expected, got = (load_file(folder / "encoder.safetensors") for folder in (whole, tmp_path / "run"))
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    keeps_what_it_leaves(tmp_path / "run")


@pytest.mark.distributed
def test_two_processes(tmp_path: Path, image_folder: Path, recipe: Runner) -> None:
    flags = [*FLAGS, "--workers", "0", "--out", str(tmp_path), "--max-steps", "2", "--knn-every", "0"]
    extra = ["--augment", "three", "--bce", "--schedule", "paper", "--repeats", "1"]
    done = recipe("deit_in1k", "--data", f"folder:{image_folder}", *flags, *extra, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert lines(tmp_path)[0]["processes"] == 2
    (top,) = [line["top1"] for line in lines(tmp_path) if "top1" in line]
    assert json.loads((tmp_path / "results.json").read_text())["trained"]["top1"] == pytest.approx(top)


def test_images_without_labels_are_refused_before_any_work(
    tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    folder = next(path for path in sorted((image_folder / "train").rglob("*")) if any(path.glob("*.png")))
    done = recipe(
        "deit_in1k",
        "--data",
        f"folder:{folder}",
        "--val",
        "none",
        *FLAGS,
        "--batch-size",
        "4",
        "--out",
        str(tmp_path),
    )
    assert done.returncode == 2
    assert "no labels" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("checkpoints/*"))
