"""Data-loading processes that begin by spawn: each imports everything anew, so this takes a minute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_run_trains_with_spawned_workers(pictures: Path, tmp_path: Path) -> None:
    flags = [
        *("--data", f"folder:{pictures}", "--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4"),
        *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--hidden", "16", "--out-dim", "8"),
        *("--batch-size", "16", "--lr", "1e-3", "--epochs", "2", "--warmup-epochs", "1", "--max-steps", "2"),
        *("--knn-every", "0", "--workers", "1", "--start-method", "spawn", "--out", str(tmp_path)),
    ]
    command = [sys.executable, "recipes/moco_in1k.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "config.json").read_text())["start_method"] == "spawn"
    assert (tmp_path / "results.json").is_file()
