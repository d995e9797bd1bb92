"""What do blocks, pooling and its sampling cost at each token count?  CAST, Table 7: ms of a batch of 256.

    python recipes/ablations/latency.py
    python recipes/ablations/latency.py -- --device cpu --batch 16
    python recipes/ablations/latency.py --data demo

The paper, for 196, 64, 32 and 16 tokens: blocks 86.43, 25.4, 12.9, 5.0; graph pooling 63.02, 18.2, 9.6, 6.1,
of which farthest point sampling 37.64, 9.7, 3.0, 1.5.  Another machine has other milliseconds: compare
shares.  Nothing else may run meanwhile, hence no `--jobs`.
"""

from __future__ import annotations

import sys

from castssl.ablations.budgets import SEEDS
from castssl.ablations.grid import Study
from castssl.ablations.study import main
from castssl.shipped import recipe

STAGES = recipe("benchmarks/stages")
TITLE = "Latency in ms of a batch (Table 7)"
POOLINGS = ("graph", "graph:centroids=random", "tome")
GRID = {"tokens": ("196", "64", "32", "16"), "pooling": POOLINGS, "seed": SEEDS}
PAPER = Study(title=TITLE, recipe=STAGES, grid=GRID, flags=("--device", "cuda", "--batch", "256"), data=False)
SMALL = {"tokens": ("64", "32", "16"), "pooling": POOLINGS[:2], "seed": SEEDS[:2]}
FLAGS = ("--model", "nano", "--batch", "64", "--threads", "1")
DEMO = Study(title=f"{TITLE}, nano on a CPU", recipe=STAGES, grid=SMALL, flags=FLAGS, data=False)

if __name__ == "__main__":
    sys.exit(main(PAPER, demo=DEMO))
