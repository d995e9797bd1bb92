"""A recipe with a superpixel cache: filled by one process, found by the next, and the same result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.recipes.conftest import Runner
from tests.recipes.test_moco_in1k import FLAGS

pytestmark = pytest.mark.recipe


def test_cold_and_warm_give_the_same_weights(tmp_path: Path, image_folder: Path, recipe: Runner) -> None:
    flags = [*FLAGS, "--epochs", "2", "--max-steps", "3", "--knn-every", "0"]
    cache = tmp_path / "cache"
    found = []  # without a held-out split there is no exam, which would take most of the time
    for name in ("cold", "warm"):
        out = tmp_path / name
        command = ["--data", f"folder:{image_folder / 'train'}", *flags, "--workers", "2", "--out", str(out)]
        done = recipe("moco_in1k", *command, "--superpixel-cache", str(cache))
        assert done.returncode == 0, done.stderr[-3000:]
        entries = {path: path.stat().st_mtime_ns for path in cache.glob("*/*")}
        found.append((load_file(out / "encoder.safetensors"), entries))
    (cold, filled), (warm, kept) = found
    assert len(filled) == len(list((image_folder / "train").glob("*/*/*")))
    assert kept == filled, "the second process found every entry, and wrote none"
    assert all(torch.equal(warm[name], value) for name, value in cold.items())
