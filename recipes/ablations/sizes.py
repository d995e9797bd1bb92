"""How many tokens per stage, in training and test alike?  CAST, Table 5c: linear probe on IN-100 after MoCo.

    python recipes/ablations/sizes.py --data folder:/path/to/imagenet --cluster slurm
    python recipes/ablations/sizes.py --data demo

The paper: 78.8, 79.9, 79.9, 79.8, 80.4 in this order.
"""

from __future__ import annotations

import sys

from castssl.ablations.budgets import embedded, imagenet100
from castssl.ablations.study import main

TITLE = "Sizes, train = test (Table 5c)"
MANY = "--superpixels seeds:count=324"
SIZES = ("196 32 16 8", "196 64 32 16", "196 128 64 32", f"324 64 32 16 {MANY}", f"324 128 64 32 {MANY}")
PAPER = imagenet100(TITLE, {"sizes": SIZES})
DEMO = embedded(TITLE, {"sizes": ("64 16 8", "64 32 16", "64 48 32")})

if __name__ == "__main__":
    sys.exit(main(PAPER, demo=DEMO))
