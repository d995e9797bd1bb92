"""Many labels per image: a few steps for real, continued, ended early, on two processes, and refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from castssl.checkpoints.many_labels import load_many_labels
from castssl.cli import main
from castssl.datasets.demo.dataset import tree as demo_tree
from castssl.datasets.multilabel_sets import Voc07
from tests.recipes.conftest import Runner, keeps_what_it_leaves

pytestmark = pytest.mark.recipe
DATA = ["--data", "demo-many:size=32,images=20"]
FLAGS = [
    *(
        "--image-size",
        "32",
        "--batch-size",
        "4",
        "--workers",
        "0",
        "--text",
        "learned:8",
        "--augment",
        "none",
    ),
    *("--model", "timm-features:test_convnext", "--warmup-epochs", "1", "--knn-every", "0"),
]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def state(folder: Path) -> dict[str, Any]:
    """The last checkpoint."""
    found: dict[str, Any] = torch.load(max((folder / "checkpoints").iterdir()), weights_only=True)
    return found


def cut(folder: Path, keep: int) -> None:
    """As if the run had been killed after its first checkpoints."""
    for checkpoint in sorted((folder / "checkpoints").iterdir())[keep:]:
        checkpoint.unlink()
    (folder / "results.json").unlink()


def test_killed_and_continued_ends_where_it_would_have(tmp_path: Path, recipe: Runner) -> None:
    """Rates, weights, average and the plateau's state are the same, bit for bit."""
    flags = [*DATA, *FLAGS, "--epochs", "4", "--lr", "0.01", "--patience", "0", "--stop-after", "3"]
    flags += ["--ema", "0.5", "--branch", "ema", "--keep", "99", "--out", str(tmp_path)]
    done = recipe("multilabel", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(word in done.stdout for word in ("mAP", "trained", "best", "untrained", "majority"))
    before, measured = state(tmp_path), [line["mAP"] for line in lines(tmp_path) if "mAP" in line]
    assert before["followed"]["best"] == pytest.approx(max(measured), abs=1e-5)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["best"]["mAP"] == max(measured)
    cut(tmp_path, 1)
    assert recipe("multilabel", *flags).returncode == 0
    after = state(tmp_path)
    assert after["followed"] == before["followed"]
    assert after["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    assert all(torch.equal(after["module"][name], value) for name, value in before["module"].items())
    assert json.loads((tmp_path / "results.json").read_text()) == results
    saved = load_file(tmp_path / "encoder.safetensors")
    average = {name: value for name, value in after["module"].items() if name.startswith("average.module.")}
    assert torch.equal(saved["heads.vectors"], average["average.module.vectors"])


def test_a_measure_that_does_not_rise_ends_the_training(tmp_path: Path, recipe: Runner) -> None:
    """Also where the run was killed before, and for good; the weights hardly move."""
    flags = [*DATA, *FLAGS, "--epochs", "9", "--lr", "1e-12", "--stop-after", "2", "--keep", "99"]
    flags += ["--patience", "0", "--objective", "multilabel:loss=asl", "--out", str(tmp_path)]
    done = recipe("multilabel", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    before = state(tmp_path)
    assert before["followed"]["stopped"]
    assert before["step"] == 3 * 5
    assert "training ends early, after step 15" in done.stderr
    cut(tmp_path, 2)
    assert recipe("multilabel", *flags).returncode == 0
    assert state(tmp_path)["followed"] == before["followed"]
    assert state(tmp_path)["step"] == before["step"]
    again = recipe("multilabel", *flags)
    assert again.returncode == 0, again.stderr[-3000:]
    assert state(tmp_path)["step"] == before["step"]
    assert (tmp_path / "results.json").exists()


def test_labels_that_are_all_unknown_are_refused_at_the_start(tmp_path: Path, recipe: Runner) -> None:
    Voc07().example(tmp_path)
    for path in (tmp_path / "VOC2007/ImageSets/Main").glob("*_trainval.txt"):
        path.write_text(re.sub(r"\S+$", "0", path.read_text(), flags=re.MULTILINE))
    flags = [*FLAGS[:2], "--batch-size", "2", *FLAGS[4:], "--data", f"voc07:{tmp_path}", "--schedule", "poly"]
    done = recipe("multilabel", *flags, "--out", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "none of the 3 training images has a known label" in " ".join(done.stderr.split())
    assert not (tmp_path / "run" / "once.json").exists()  # Nothing was measured.


def test_embeddings_are_kept_in_the_run_s_folder(tmp_path: Path, recipe: Runner) -> None:
    """The source is read once, and neither a second start nor a prediction needs it."""
    names = [name for level in demo_tree().names for name in level]
    np.save(tmp_path / "names.npy", np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32))
    (tmp_path / "names.txt").write_text("\n".join(names))
    flags = [*DATA, *FLAGS, "--epochs", "2", "--objective", "multilabel:head_weights=shared"]
    flags += ["--text", f"file:{tmp_path / 'names.npy'}", "--out", str(tmp_path / "run")]
    assert recipe("multilabel", *flags, "--max-steps", "2").returncode == 0
    (tmp_path / "names.npy").unlink()
    done = recipe("multilabel", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    keeps_what_it_leaves(tmp_path / "run")
    loaded = load_many_labels(tmp_path / "run")
    vectors = load_file(tmp_path / "run" / "label-embeddings.safetensors")["vectors"]
    assert torch.equal(loaded.objective.heads()["vectors"], vectors)
    out = tmp_path / "evaluated"
    how = ["--weights", str(tmp_path / "run"), "--workers", "0", "--device", "cpu", "--out", str(out)]
    assert main(["evaluate", DATA[1], *how]) == 0
    found, trained = (json.loads((folder / "results.json").read_text()) for folder in (out, tmp_path / "run"))
    assert found["trained"]["mAP"] == pytest.approx(trained["trained"]["mAP"], abs=1e-6)
    assert found["majority"]["mAP"] == pytest.approx(trained["majority"]["mAP"], abs=1e-6)


@pytest.mark.distributed
def test_two_processes_train_on_segments(tmp_path: Path, recipe: Runner) -> None:
    """With the paper's schedule, accumulated batches, a plain head and half precision."""
    nano = [
        "--model",
        "nano",
        "--sizes",
        "16",
        "8",
        "4",
        "--superpixels",
        "seeds:count=16,bins=5,iterations=2",
    ]
    flags = [*DATA, *FLAGS, *nano, "--schedule", "poly", "--objective", "multilabel:interact=stage"]
    flags += [
        "--batch-size",
        "8",
        "--accumulate",
        "2",
        "--precision",
        "bf16",
        "--max-steps",
        "2",
        "--epochs",
        "2",
    ]
    done = recipe("multilabel", *flags, "--out", str(tmp_path), processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert lines(tmp_path)[0]["processes"] == 2
    (measured,) = [line["mAP"] for line in lines(tmp_path) if "mAP" in line]
    assert json.loads((tmp_path / "results.json").read_text())["trained"]["mAP"] == pytest.approx(
        measured, abs=1e-5
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "demo:size=32,per_class=2"], "exclude each other; take data such as voc07:"),
        ([*DATA, "--val", "none"], "--schedule plateau follows the mAP of held-out images"),
        ([*DATA, "--eval-every", "0"], "needs --eval-every 1"),
        (
            [*DATA, "--preset", "papers"],
            "--preset: got papers, expected published, released, paper, small, tiny or auto",
        ),
        ([*DATA, "--objective", "multilable"], "multilabel"),
        ([*DATA, "--mean", "0.5", "0.5", "0.5"], "--normalize none"),
        ([*DATA, "--branch", "ema"], "--ema above 0"),
        ([*DATA, "--objective", "multilabel:text=learned:8"], "given as text and as a keyword"),
    ],
)
def test_what_does_not_fit_is_refused(flags: list[str], words: str, tmp_path: Path, recipe: Runner) -> None:
    preset = [] if "--preset" in flags else FLAGS
    done = recipe("multilabel", *preset, *flags, "--out", str(tmp_path / "run"))
    assert done.returncode == 2 or (done.returncode == 1 and "held-out" in words)
    assert words in " ".join(done.stderr.split()), done.stderr[-3000:]
    assert not (tmp_path / "run" / "checkpoints").exists()
