"""Microscopy-like images, 16 bits and one channel, from files to training, segments and predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castssl.checkpoints import read
from castssl.checkpoints.transfer import transfer
from castssl.cli import main
from tests.recipes.conftest import Runner

pytestmark = pytest.mark.recipe
FLAGS = [
    *("--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4", "--batch-size", "8"),
    *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--workers", "0"),
    *("--channels", "1", "--mean", "0.2", "--std", "0.1", "--max-steps", "2", "--knn-every", "1000"),
]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes, few and many spots, as TIFF of 12 bits in 16."""
    folder, random = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    y, x = np.mgrid[:40, :48]
    for split, number in (("train", 8), ("val", 3)):
        for spots in (2, 9):
            (folder / split / f"spots-{spots}").mkdir(parents=True)
            for index in range(number):
                image = random.normal(400, 40, (40, 48))
                for row, column in random.uniform(4, 36, (spots, 2)):
                    image += 2500 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 12)
                pixels = image.clip(0, 4095).astype(np.uint16)
                Image.fromarray(pixels).save(folder / split / f"spots-{spots}" / f"{index}.tif")
    return folder


@pytest.fixture(scope="module")
def run(cells: Path, tmp_path_factory: pytest.TempPathFactory, recipe: Runner) -> Path:
    """A run on them with labels."""
    out = tmp_path_factory.mktemp("runs") / "cells"
    done = recipe("deit_in1k", "--data", f"folder:{cells}?bits=12", *FLAGS, "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_a_run_reads_one_channel_and_keeps_the_constants(run: Path) -> None:
    saved = read(run)
    assert saved.encoder["stem.layers.0.weight"].shape[1] == 1
    assert (saved.config.channels, saved.config.mean, saved.config.std) == (1, (0.2,), (0.1,))
    assert json.loads((run / "results.json").read_text())["trained"]["top1"] >= 0


def test_the_weights_segment_and_predict_such_files(
    run: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(cells / "val" / "spots-9" / "0.tif")
    assert main(["predict", file, "--weights", str(run), "--bits", "12", "--json"]) == 0
    assert "spots-" in capsys.readouterr().out
    assert main(["segment", file, "--weights", str(run), "--bits", "12", "--out", str(tmp_path / "out")]) == 0
    assert list((tmp_path / "out").glob("0*.png"))


def test_another_model_for_segmentation_reads_what_the_weights_read(run: Path) -> None:
    config = transfer(str(run), "nano", image_size=32, sizes=(16, 8, 4)).config
    assert (config.channels, config.mean, config.std) == (1, (0.2,), (0.1,))


def test_wrong_constants_are_refused_before_the_run(cells: Path, recipe: Runner) -> None:
    done = recipe("deit_in1k", "--data", f"folder:{cells}", "--channels", "1", "--mean", "0.2", "0.3")
    assert done.returncode == 2
    assert "--mean: got 2 values, expected 1" in done.stderr
