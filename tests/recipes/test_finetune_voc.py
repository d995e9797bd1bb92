"""Fine-tuning on VOC: a few steps for real, continued, and what the run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import castssl
from castssl.checkpoints import load_encoder
from castssl.checkpoints.native import save_encoder
from castssl.checkpoints.segmenter import load_segmenter
from castssl.datasets.open import open_images
from castssl.evaluation.held_out import indexed
from castssl.metrics.iou import MeanIoU
from castssl.models.create import create
from tests import forked
from tests.recipes.conftest import Runner, keeps_what_it_leaves

pytestmark = pytest.mark.recipe
SEEDS = "seeds:count=64,bins=5,iterations=2"
FLAGS = ["--batch-size", "4", "--workers", "0", "--image-size", "32", "--save-every", "1", "--log-every", "1"]


def state(folder: Path) -> dict[str, Any]:
    """The last checkpoint's."""
    return dict(torch.load(max((folder / "checkpoints").iterdir()), weights_only=True))


@pytest.fixture(scope="module", params=[True, False], ids=["dense", "plain"])
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that takes a smaller label map than the image, and one not made for segmentation."""
    torch.manual_seed(0)
    encoder = create("nano", superpixels=SEEDS, image_size=32, fused=request.param, dense=request.param)
    return save_encoder(encoder, tmp_path_factory.mktemp("weights") / "encoder.safetensors")


@pytest.fixture(scope="module")
def unbroken(weights: Path, pairs: str, recipe: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, which are more than an epoch, that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done = recipe(
        "finetune_voc", "--data", pairs, "--weights", str(weights), *FLAGS, "--steps", "4", "--out", str(out)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(word in done.stdout for word in ("mIoU", "untrained", "bound"))
    assert "epoch 2/2" in done.stderr
    return out


def test_steps_count_and_the_schedule_spans_them(unbroken: Path) -> None:
    lines = [json.loads(line) for line in (unbroken / "log.jsonl").read_text().splitlines()]
    rates = [line["rate"] for line in lines if "rate" in line]
    assert rates == pytest.approx([3e-4, 3e-3 * 0.75**0.9, 3e-3 * 0.5**0.9, 3e-3 * 0.25**0.9])
    optimizer = state(unbroken)["optimizer"]
    groups = {(group["initial_lr"], group["weight_decay"]) for group in optimizer["param_groups"]}
    assert groups == {(3e-3, 1e-4), (6e-3, 0.0), (3e-2, 1e-4), (6e-2, 0.0)}


def test_class_token_and_positions_are_those_of_the_weights(unbroken: Path, weights: Path) -> None:
    """The other parameters are trained, but those of the last pooling and the last norm, which none reads."""
    before, after = load_encoder(weights), state(unbroken)["module"]
    read = [part for part in before.named_parameters() if not part[0].startswith(("poolings.2.", "norm."))]
    kept = {name for name, value in read if torch.equal(value, after[f"model.encoder.{name}"])}
    assert kept == {"cls_token", "positions"}


def test_a_stopped_run_goes_on_exactly(
    unbroken: Path, weights: Path, pairs: str, recipe: Runner, tmp_path: Path
) -> None:
    flags = ["--data", pairs, "--weights", str(weights), *FLAGS, "--out", str(tmp_path), "--steps", "4"]
    for more in (["--max-steps", "2"], []):
        assert recipe("finetune_voc", *flags, *more).returncode == 0
    found, expected = state(tmp_path)["module"], state(unbroken)["module"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (tmp_path / "results.json").read_text() == (unbroken / "results.json").read_text()
    keeps_what_it_leaves(tmp_path)


def test_class_maps_of_a_photo_are_those_that_were_scored(unbroken: Path, pairs: str) -> None:
    held_out, segmenter = indexed(open_images(pairs, split="val")), load_segmenter(unbroken)
    assert (segmenter.shorter, segmenter.longer) == (0, 32)
    metric = MeanIoU(3)
    for number in range(len(held_out)):
        sample = held_out.fetch(number, labels=True)
        labels: Tensor = torch.from_numpy(sample.labels)
        metric.update(castssl.segment_classes(sample.image, segmenter).labels, labels)
    results = json.loads((unbroken / "results.json").read_text())
    assert results["trained"]["miou"] == pytest.approx(float(metric.compute().mean_iou), abs=1e-6)


def test_epochs_in_place_of_steps(pairs: str, recipe: Runner, tmp_path: Path) -> None:
    flags = ["--data", pairs, "--model", "nano_seg", *FLAGS, "--epochs", "1", "--out", str(tmp_path / "run")]
    count = ["tests/recipes/count_compiled.py", str(tmp_path / "calls"), "recipes/finetune_voc.py"]
    assert forked.run([*count, *flags, "--compile"]).returncode == 0
    assert (tmp_path / "calls").read_text() == "3", "with --compile, each step calls what is compiled"
    assert state(tmp_path / "run")["step"] == 3
    done = recipe("finetune_voc", *flags, "--steps", "0")
    assert done.returncode == 2
    assert "--steps: got 0, expected at least 1" in done.stderr
