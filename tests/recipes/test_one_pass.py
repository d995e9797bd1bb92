"""In one evaluation each image is decoded once, and each of its views partitioned into superpixels once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from castssl.checkpoints.native import save_encoder
from castssl.models.create import create
from tests import forked

SUPERPIXELS = ("--superpixels", "grid:cell=8")
SHAPE = ("--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4")
LABELED = ("--warmup-epochs", "0", "--ema", "0")
FLAGS = {
    "moco_in1k": (*SHAPE, "--hidden", "16", "--out-dim", "8", "--warmup-epochs", "0"),
    "pretrain": (*SHAPE, "--objective", "moco:hidden=16,out=8", "--warmup-epochs", "0"),
    "deit_in1k": (*SHAPE, *LABELED),
    "hcast": (*SHAPE, *LABELED, "--branch", "base"),
    "probe_in1k": ("--image-size", "32"),
}


def evaluations(recipe: str, image_folder: Path, folder: Path) -> list[dict[str, Any]]:
    """What each evaluation of a run without any step has decoded and partitioned."""
    flags = ["--data", f"folder:{image_folder}", "--out", str(folder / "run")]
    flags += ["--epochs", "0", "--workers", "0", "--batch-size", "16"]
    if recipe == "probe_in1k":
        torch.manual_seed(0)
        encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels=SUPERPIXELS[1])
        flags += ["--weights", str(save_encoder(encoder, folder / "encoder.safetensors"))]
    command = [str(folder / "counts.json"), f"recipes/{recipe}.py", *flags, *FLAGS[recipe], *SUPERPIXELS]
    answer = forked.run(["tests/recipes/count_evaluations.py", *command])
    assert answer.returncode == 0, answer.stderr[-2000:]
    counted: list[dict[str, Any]] = json.loads((folder / "counts.json").read_text())
    return counted


@pytest.mark.parametrize("recipe", FLAGS)
def test_no_image_is_decoded_or_segmented_twice(recipe: str, image_folder: Path, tmp_path: Path) -> None:
    """All evaluators share the center view but matching, which has two random views of each image.

    kNN also needs the center view of each training image.
    """
    counted = evaluations(recipe, image_folder, tmp_path)
    names = {name for one in counted for name in one["evaluators"]}
    assert names >= {"Knn", "Matching", "Overlap"}
    for one in counted:
        images = [*one["held_out"], *(one["train"] if "Knn" in one["evaluators"] else ())]
        assert one["decoded"] == dict.fromkeys(images, 1)
        random_views = 2 * len(one["held_out"]) * ("Matching" in one["evaluators"])
        assert one["partitioned"] == [1] * (len(images) + random_views)
