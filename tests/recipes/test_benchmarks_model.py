"""The benchmarks print their tables; their settings are tiny here, and their figures mean nothing."""

from __future__ import annotations

import re

import pytest
import torch

from castssl.pooling.centroids import farthest
from recipes.benchmarks.model import one_by_one
from tests.recipes.conftest import Runner

pytestmark = pytest.mark.recipe
NUMBER = re.compile(r"^[\d.]+%?$")


def rows(table: str) -> list[list[str]]:
    """The cells of a printed table's body."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]


def operators(printed: str, heading: str) -> list[list[str]]:
    """The cells of the table of operators with this heading."""
    lines = printed.partition(f"┃ {heading} ")[2].partition("└")[0]
    return rows(lines)


def test_models_are_measured_beside_the_first(recipe: Runner) -> None:
    models = ["timm:vit_tiny_patch16_224", "nano"]
    done = recipe(
        "benchmarks/model", "--models", *models, "--batch", "1", "--rounds", "1", "--threads", "1", "--where"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"\d+ cores, 1 threads?, torch \d", done.stdout.splitlines()[0])
    found = {tuple(row[:3]): row[3:] for row in rows(done.stdout)}
    for precision in ("fp32", "bf16"):
        for mode in ("forward", "+ backward"):
            for model in models:
                ms, ratio, sampling, work, _, share = found[model, mode, precision]
                assert all(NUMBER.match(cell) for cell in (ms, ratio, work, share)), (model, mode, precision)
                assert sampling.endswith("%") == (model == "nano")
            assert found[models[0], mode, precision][1] == "1.00"
        assert found["matrices", "2048 x 2048", precision][-1] == "100%"
        forward, both = (float(found["nano", mode, precision][3]) for mode in ("forward", "+ backward"))
        assert 2 * forward < both < 3.1 * forward
    *kinds, total = operators(done.stdout, "forward bf16")
    took = {kind: [float(ms) for ms in cells] for kind, *cells in kinds}
    assert all(min(took[kind]) > 0 for kind in ("linear layers", "attention", "convolutions", "norms"))
    for column in (1, 2):
        assert sum(float(row[column]) for row in kinds) == pytest.approx(float(total[column]), abs=0.1)
    assert float(found["64 of 196 tokens", "sampling", "fp32"][0]) > 0
    assert float(found["the same, one by one", "sampling", "fp32"][0]) > 0


def test_what_stands_for_dgl_makes_the_same_picks() -> None:
    x = torch.randn(2, 50, 12)
    valid = torch.ones(2, 50, dtype=torch.bool)
    assert one_by_one(x, valid, 20) == farthest(x, valid, 20).tolist()
