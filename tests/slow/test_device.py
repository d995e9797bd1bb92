"""The items of `make gpu` that need no GPU, on a processor."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.forked import ROOT


def test_each_item_that_needs_no_gpu_has_a_figure_on_a_processor() -> None:
    flags = ["--device", "cpu", "--model", "nano", "--image-size", "64", "--batch", "4", "--seconds", "3000"]
    command = [sys.executable, "recipes/benchmarks/device.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    rows = {item: (verdict, figure) for item, verdict, figure, _ in (row[2:].split(" | ") for row in lines)}
    assert done.returncode == 0, done.stdout[-5000:]
    assert {item for item, (verdict, _) in rows.items() if verdict == "ok"} == {
        *("collectives", "fp16", "bf16", "device-slic", "MoCo"),
    }
    assert rows["collectives"][1].startswith("gloo, 2 processes")
    assert re.fullmatch(r"1 processes: [\d.]+ images/s, [\d.]+% waiting", rows["MoCo"][1])
    assert {verdict for verdict, _ in rows.values()} == {"ok", "not run"}
