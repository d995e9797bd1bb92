"""Flags that could not be given together, or that a user may give, end in a run or in words."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.conftest import Command

SHAPE = ("--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4", "--workers", "0")
SUPERPIXELS = ("--superpixels", "seeds:count=16,bins=5,iterations=2")


def test_a_seed_that_numpy_does_not_take_is_refused_with_the_range(tmp_path: Path, process: Command) -> None:
    flags = ("--data", "demo", "--seed", str(2**32), "--out", tmp_path / "run")
    done = process("recipes/moco_in1k.py", *flags)
    assert done.code == 2
    assert f"--seed: got {2**32}, expected 0 to {2**32 - 1}" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_one_image_before_batch_norm_is_refused_with_the_flags(
    image_folder: Path, tmp_path: Path, process: Command
) -> None:
    """Accumulating as many batches as there are images leaves one image for each forward pass."""
    flags = (*SHAPE, *SUPERPIXELS, "--hidden", "16", "--out-dim", "8", "--val", "none", "--out", tmp_path)
    size = ("--batch-size", "4", "--accumulate", "4", "--epochs", "2", "--warmup-epochs", "1")
    done = process("recipes/moco_in1k.py", "--data", f"folder:{image_folder}", *flags, *size)
    assert done.code == 2
    assert "1 image in each process" in done.err
    assert "--batch-size" in done.err
    assert "Traceback" not in done.err


def test_defaults_fit_one_epoch_and_a_batch_of_eight(
    image_folder: Path, tmp_path: Path, process: Command
) -> None:
    flags = (*SHAPE, *SUPERPIXELS, "--epochs", "1", "--batch-size", "8", "--max-steps", "1")
    unmeasured = ("--val", "none", "--knn-every", "0", "--out", tmp_path / "run")
    done = process("recipes/deit_in1k.py", "--data", f"folder:{image_folder}", *flags, *unmeasured)
    assert done.code == 0, done.err
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    peak = settings["lr"] * 8 / 512
    assert 0 <= settings["warmup_epochs"] < 1
    assert settings["min_lr"] < peak
    assert settings["warmup_lr"] < peak
