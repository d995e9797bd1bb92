"""Segment retrieval for real: measured, continued, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from castssl.checkpoints.native import save_encoder, save_objective
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
    projector = save_objective(objective, objective.encoder, path)
    for name, value in projector_of(projector).state_dict().items():
        assert torch.equal(value, objective.model.projector.state_dict()[name])
    return path


def test_encoder_new_weights_and_colors_stand_side_by_side(
    weights: Path, pairs: str, recipe: Runner, tmp_path: Path
) -> None:
    """What is measured once is kept."""
    flags = ["--data", pairs, "--weights", str(weights), *FLAGS]
    done = recipe("retrieve_voc", *flags, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    columns = {"trained", "untrained", "mean color", "bound", "majority", "chance"}
    assert results.keys() == columns
    assert all(word in done.stdout for word in ("mean color", "bound", "mIoU"))
    # The squares are of one color each, so that colors find them, up to those that a segment cuts.
    assert results["majority"]["miou"] + 0.2 < results["mean color"]["miou"] <= 1
    assert results["trained"]["miou"] != results["untrained"]["miou"]

    kept = json.loads((tmp_path / "run" / "once.json").read_text())
    del kept["untrained"], kept["mean color"]
    kept["trained"]["/miou"] = 0.25
    (tmp_path / "run" / "once.json").write_text(json.dumps(kept))
    assert recipe("retrieve_voc", *flags, "--out", str(tmp_path / "run")).returncode == 0
    results["trained"]["miou"] = 0.25
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results


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
