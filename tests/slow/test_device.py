"""The items of `make gpu` that need no GPU, on a processor."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from recipes.benchmarks import device
from tests.forked import ROOT


def test_the_number_of_passed_tests_is_a_figure(tmp_path: Path) -> None:
    pattern = device.items(device.Config(device="cpu"), tmp_path)["tests marked gpu"].figure
    row = device.run("tests", device.Item((*device.PYTEST, "tests/test_types.py"), 600, pattern), 600)
    assert row.verdict == "ok", row.output
    assert re.fullmatch(r"\d+ passed", row.figure)


def test_each_item_that_needs_no_gpu_has_a_figure_on_a_processor() -> None:
    flags = ["--device", "cpu", "--model", "nano", "--image-size", "64", "--batch", "4", "--seconds", "3000"]
    command = [sys.executable, "recipes/benchmarks/device.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    rows = {item: (verdict, figure) for item, verdict, figure, _ in (row[2:].split(" | ") for row in lines)}
    assert done.returncode == 0, done.stdout[-5000:]
    assert {item for item, (verdict, _) in rows.items() if verdict == "ok"} == {
        *("collectives", "fp32", "fp16", "bf16", "device-slic", "MoCo"),
    }
    assert rows["collectives"][1].startswith("gloo, 2 processes")
    assert re.fullmatch(r"1 processes: [\d.]+ images/s, [\d.]+% waiting", rows["MoCo"][1])
    assert {verdict for verdict, _ in rows.values()} == {"ok", "not run"}
