"""The benchmark of the dense model's tokens prints its table; its settings are tiny here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recipes.benchmarks import dense
from tests import forked
from tests.recipes.test_benchmarks_stages import rows

pytestmark = pytest.mark.recipe
SCRIPT = """
from dataclasses import replace

from castssl.config import launch
from castssl.models.presets import PRESETS
from recipes.benchmarks.dense import Config, main

PRESETS["nano_dense"] = replace(PRESETS["nano_seg"], name="nano_dense", dense=True)
launch(main, Config)
"""
"""The benchmark, with a small dense model."""


def test_both_ways_are_measured_in_one_run(tmp_path: Path) -> None:
    (tmp_path / "dense.py").write_text(SCRIPT)
    flags = ["--model", "nano_dense", "--side", "64", "--batch", "1", "--rounds", "1", "--threads", "1"]
    done = forked.run([str(tmp_path / "dense.py"), *flags])
    assert done.returncode == 0, done.stderr[-3000:]
    found = rows(done.stdout)
    assert [row[0] for row in found] == ["means", "forward", "+ backward", "peak memory, MB"]
    for _, pixels, cells, ratio in found:
        assert float(cells) / float(pixels) == pytest.approx(float(ratio), abs=0.01 + 0.02 * float(ratio))


def test_what_is_compared_computes_the_same() -> None:
    features, labels = torch.randn(2, 8, 4, 4), torch.randint(0, 9, (2, 32, 32), dtype=torch.int32)
    for mode in ("bilinear", "bicubic"):
        ours, theirs = (way(features, labels, 9, mode) for way in dense.WAYS.values())
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=0)
