"""The benchmark of Table 7 prints its table; its settings are tiny here, and its figures mean nothing."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from castssl.ablations.study import main
from recipes.ablations import latency
from tests.recipes.conftest import Runner

pytestmark = pytest.mark.recipe


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]


def test_each_stage_is_measured_beside_the_paper(recipe: Runner) -> None:
    done = recipe("benchmarks/stages", "--batch", "1", "--rounds", "5", "--threads", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"\d+ cores, 1 threads?, torch \d", done.stdout.splitlines()[0])
    found = rows(done.stdout)
    assert [row[0] for row in found] == ["196", "64", "32", "16"]
    for row in found:
        blocks, pooling, sampling = map(float, row[1:4])
        assert blocks > 0
        assert 0 < sampling < pooling
    assert found[0][5:] == ["86.43", "63.02", "37.64"]


def test_another_pooling_samples_nothing_and_has_no_figure_of_the_papers(recipe: Runner) -> None:
    done = recipe(
        "benchmarks/stages", "--model", "nano", "--pooling", "random", "--batch", "1", "--rounds", "1"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for row in rows(done.stdout):
        assert row[3:] == [""] * 5


def test_one_stage_alone_leaves_its_results(recipe: Runner, tmp_path: Path) -> None:
    tiny = ("--model", "nano", "--batch", "1", "--rounds", "1", "--out", str(tmp_path))
    done = recipe("benchmarks/stages", *tiny, "--tokens", "16")
    assert done.returncode == 0, done.stderr[-3000:]
    ((tokens, *shown),) = rows(done.stdout)
    found = json.loads((tmp_path / "results.json").read_text())["trained"]
    assert tokens == "16"
    assert shown[:3] == [f"{found[f'{part}_ms']:.2f}" for part in ("blocks", "pooling", "sampling")]
    done = recipe("benchmarks/stages", *tiny, "--tokens", "17")
    assert done.returncode == 2
    assert "stages of (64, 32, 16, 8)" in done.stderr


@pytest.mark.usefixtures("forked_jobs")
def test_table_7_is_an_ablation(recipe: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--data", "demo", "--seeds", "1", "--jobs", "2", "--out", str(tmp_path)]
    tiny = ["--", "--batch", "1", "--rounds", "1"]
    planned = recipe("ablations/latency", *flags, "--dry-run", *tiny).stdout
    for tokens in (64, 32, 16):
        for pooling in ("graph ", "graph:centroids=random "):
            assert f"--tokens {tokens} --pooling {pooling}" in planned
    # Of the six runs, the two of one token count.
    monkeypatch.setattr(sys, "argv", ["recipes/ablations/latency.py", *flags, *tiny])
    assert main(latency.PAPER, demo=replace(latency.DEMO, grid={**latency.SMALL, "tokens": ("16",)})) == 0
    table = (tmp_path / "table.md").read_text()
    assert "| tokens | pooling | blocks ms | pooling ms | sampling ms | seeds |" in table
    ms = r"\**[\d.]+\**"  # the best is bold
    assert re.search(rf"\| 16 \| graph \| {ms} \| {ms} \| {ms} \| 1 \|", table)
    assert re.search(rf"\| 16 \| graph:centroids=random \| {ms} \| {ms} \| – \| 1 \|", table)
