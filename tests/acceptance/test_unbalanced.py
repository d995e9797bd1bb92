"""On unbalanced data the bar is the most frequent class, and each class counts as much as any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.conftest import Command

HELD_OUT = {"many": 12, "few": 3, "rare": 1}


def test_the_probe_shows_majority_and_balanced_accuracy(process: Command, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, count in HELD_OUT.items():
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    done = process(
        *("recipes/deit_in1k.py", "--data", f"folder:{tmp_path}", "--model", "nano", "--image-size", "32"),
        *("--sizes", "16", "8", "4", "--superpixels", "seeds:count=16,bins=5,iterations=2", "--lr", "1e-3"),
        *("--batch-size", "8", "--repeats", "1", "--workers", "0", "--epochs", "2", "--warmup-epochs", "1"),
        *("--min-lr", "0", "--warmup-lr", "0", "--max-steps", "1", "--out", tmp_path / "run"),
    )
    assert done.code == 0, done.err[-2000:]
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["majority"]["top1"] == pytest.approx(12 / 16)
    assert found["majority"]["knn"] == pytest.approx(12 / 16)
    assert found["chance"]["top1_balanced"] == pytest.approx(1 / 3)
    balanced = found["trained"]["top1_balanced"] * 36
    assert balanced == pytest.approx(round(balanced))
    assert "majority" in done.out
