"""The recipes on VOCdevkit as its archives unpack; tests/slow kills and continues the same runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.checkpoints.native import objective_weights
from castssl.checkpoints.segmenter import load_segmenter
from castssl.datasets.pixel_classes import voc_palette
from castssl.models.create import create
from castssl.objectives.moco import MoCoV3
from tests.recipes.conftest import Runner

pytestmark = pytest.mark.recipe
CLASSES = (0, 15, 20)
TRAIN, AUG, VAL = (
    tuple(f"2007_{first + at:06}" for at in range(count)) for first, count in ((0, 6), (20, 6), (40, 3))
)
TRAINING = ("--batch-size", "4", "--lr", "0.01", "--save-every", "3")
RECIPES = {
    "finetune_voc": ("voc:aug:", (*TRAINING, "--model", "nano_seg", "--steps", "24")),
    "segment": ("voc:", (*TRAINING, "--head", "linear", "--epochs", "24", "--eval-every", "0")),
    "retrieve_voc": ("voc:aug:", ("--model", "nano_seg", "--neighbors", "5")),
}
"""The data and the flags of a small run."""


def write_voc(folder: Path) -> Path:
    """VOCdevkit: blocks whose color is their class, in images of two shapes; 255 lies between blocks."""
    root, draw = folder / "VOCdevkit" / "VOC2012", np.random.default_rng(0)
    for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    colors = np.array(voc_palette(256), np.uint8)
    for at, stem in enumerate(TRAIN + AUG + VAL):
        labels = draw.choice(CLASSES, (3, 4)).astype(np.uint8).repeat(12, 0).repeat(12, 1)
        labels = labels.T if at % 2 else labels
        noise = draw.integers(0, 40, (*labels.shape, 3), dtype=np.uint8)
        image = Image.fromarray(colors[labels] // 2 + noise + 40)
        image.save(root / "JPEGImages" / f"{stem}.jpg", quality=95)
        if stem in AUG:
            Image.fromarray(labels).save(root / "SegmentationClassAug" / f"{stem}.png")
            continue
        edge = np.zeros(labels.shape, bool)
        edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        edge[1:] |= labels[1:] != labels[:-1]
        stored = Image.new("P", labels.shape[::-1])
        stored.putdata(np.where(edge, 255, labels).flatten().tolist())
        stored.putpalette(colors.flatten().tolist())
        stored.save(root / "SegmentationClass" / f"{stem}.png")
    for name, stems in (("train", TRAIN), ("trainaug", TRAIN + AUG), ("val", VAL)):
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(stems) + "\n")
    return root.parent


def write_weights(folder: Path) -> Path:
    """An encoder and a projector with new weights, as a run of MoCo v3 leaves them."""
    torch.manual_seed(0)
    objective = MoCoV3(create("nano", image_size=32), hidden=16, out=8)
    return objective_weights(objective, objective.encoder).write(folder / "encoder.safetensors")


def flags_of(name: str, folder: Path) -> list[str]:
    """The flags of a recipe on a VOCdevkit and weights that are written into a folder."""
    data, own = RECIPES[name]
    voc, weights = write_voc(folder), write_weights(folder)
    flags = ["--data", f"{data}{voc}", "--weights", str(weights), "--workers", "0", "--image-size", "32"]
    return [*flags, *own]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_reads_the_published_layout(name: str, recipe: Runner, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = recipe(name, *flags_of(name, tmp_path), "--out", str(run))
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((run / "results.json").read_text())
    # Blocks have the colors of their classes.
    learned = results["mean color" if name == "retrieve_voc" else "trained"]
    assert learned["miou"] > results["majority"]["miou"] + 0.2
    assert 0 < learned["boundary_f"] <= 1
    assert learned["boundary_tolerance_px"] == 1
    if name != "retrieve_voc":
        assert load_segmenter(run).palette == voc_palette(21)
        assert load_segmenter(run).labels.names[0][15] == "person"
