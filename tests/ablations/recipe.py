"""A recipe in miniature: real process, real folder, results that its flags decide."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--pooling", default="graph")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--sizes", type=int, nargs="+", default=[8])
parser.add_argument("--weights", type=Path)
parser.add_argument("--fail", default="")
parser.add_argument("--wait", type=float, default=0)
parser.add_argument("--quick", action=argparse.BooleanOptionalAction)
given = parser.parse_args()
given.out.mkdir(parents=True, exist_ok=True)
starts = given.out / "starts.txt"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
time.sleep(given.wait)
if given.fail == given.pooling:
    print("the reason why")
    sys.exit(1)
start = 100.0 if given.weights else 0.0
if given.weights:
    assert given.weights.read_text() == "weights"
(given.out / "encoder.safetensors").write_text("weights")
right = start + len(given.pooling) + given.seed
found = {"accuracy": right / 100, "depth_levels": float(sum(given.sizes))}
(given.out / "results.json").write_text(json.dumps({"trained": found, "chance": {"accuracy": 0.01}}))
