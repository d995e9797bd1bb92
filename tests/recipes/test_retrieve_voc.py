"""Segment retrieval for real: measured, continued, on two processes, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from castssl.checkpoints.native import objective_weights, save_encoder
from castssl.checkpoints.transfer import projector_of
from castssl.models.create import create
from castssl.objectives.moco import MoCoV3
from castssl.types import Batch, View
from tests.recipes.conftest import Runner

pytestmark = pytest.mark.recipe
FLAGS = [
    "--workers",
    "0",
    "--image-size",
    "32",
    "--neighbors",
    "5",
    "--superpixels",
    "grid:cell=4,runs_on=worker",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of MoCo v3 leaves."""
    torch.manual_seed(0)
    objective = MoCoV3(create("nano_seg", image_size=32), hidden=16, out=8)
    at = torch.arange(32) // 4
    segments = (at[:, None] * 8 + at).int().expand(4, 32, 32)
    objective(Batch([View(torch.randn(4, 3, 32, 32), segments) for _ in range(2)], torch.empty(4, 0)))
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    projector = objective_weights(objective, objective.encoder).write(path)
    for name, value in projector_of(projector).state_dict().items():
        assert torch.equal(value, objective.model.projector.state_dict()[name])
    return path


@pytest.fixture(scope="module")
def measured(
    weights: Path, pairs: str, recipe: Runner, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of a run of one process, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done = recipe("retrieve_voc", "--data", pairs, "--weights", str(weights), *FLAGS, "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


def test_encoder_new_weights_and_colors_stand_side_by_side(measured: tuple[Path, str]) -> None:
    out, printed = measured
    results = json.loads((out / "results.json").read_text())
    columns = {"trained", "untrained", "mean color", "bound", "majority", "chance"}
    assert results.keys() == columns
    assert all(word in printed for word in ("mean color", "bound", "mIoU"))
    # The squares are of one color each, so that colors find them, up to those that a segment cuts.
    assert results["majority"]["miou"] + 0.2 < results["mean color"]["miou"] <= 1
    assert results["trained"]["miou"] != results["untrained"]["miou"]


def test_what_is_measured_once_is_kept(
    measured: tuple[Path, str], weights: Path, pairs: str, recipe: Runner, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(measured[0], tmp_path / "run"))
    results, kept = (json.loads((out / name).read_text()) for name in ("results.json", "once.json"))
    del kept["untrained"], kept["mean color"]
    kept["trained"]["/miou"] = results["trained"]["miou"] = 0.25
    (out / "once.json").write_text(json.dumps(kept))
    flags = ["--data", pairs, "--weights", str(weights), *FLAGS, "--out", str(out)]
    assert recipe("retrieve_voc", *flags).returncode == 0
    assert json.loads((out / "results.json").read_text()) == results


def test_two_processes_have_the_results_of_one(
    measured: tuple[Path, str], weights: Path, pairs: str, recipe: Runner, tmp_path: Path
) -> None:
    """The segments of both processes vote; three held-out images are unequal shares."""
    flags = ["--data", pairs, "--weights", str(weights), *FLAGS, "--out", str(tmp_path / "run")]
    done = recipe("retrieve_voc", *flags, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "results.json").read_text() == (measured[0] / "results.json").read_text()


def test_an_encoder_without_pooling_is_grouped_by_its_tokens(
    weights: Path, pairs: str, recipe: Runner, tmp_path: Path
) -> None:
    path = save_encoder(create("nano_vit_seg", image_size=32), tmp_path / "encoder.safetensors")
    flags = ["--data", pairs, "--weights", str(path), "--workers", "0", "--image-size", "32", "--groups", "4"]
    done = recipe("retrieve_voc", *flags, "--out", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "holds no projector beside the encoder" in done.stderr
    assert "--features tokens" in done.stderr
    flags += ["--features", "tokens", "--out", str(tmp_path / "run")]
    assert recipe("retrieve_voc", *flags).returncode == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["trained"]["miou"] > 0


def test_wrong_flags_are_refused(weights: Path, pairs: str, recipe: Runner) -> None:
    done = recipe("retrieve_voc", "--data", pairs, "--model", "nano", "--neighbors", "0", "--val", "none")
    assert done.returncode == 2
    for words in ("--weights is missing", "--neighbors: got 0", "--val none: retrieval is measured"):
        assert words in done.stderr
