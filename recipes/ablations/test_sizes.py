"""One model at other sizes than it was trained with.  CAST, Table 5d: linear probe on IN-100 after MoCo.

    python recipes/ablations/test_sizes.py --data folder:/path/to/imagenet --cluster slurm
    python recipes/ablations/test_sizes.py --data demo

The paper trains with 196 64 32 16 (79.9) and finds 79.2, 79.5, 78.8 and 79.3 in this order.  The encoder is
trained once per seed; each row has a probe of its own.
"""

from __future__ import annotations

import sys

from castssl.ablations.budgets import NANO_PROBE, embedded, imagenet100
from castssl.ablations.study import main
from castssl.shipped import recipe

TITLE = "Sizes at test time (Table 5d)"
MANY = "--superpixels seeds:count=324"
SIZES = ("196 64 32 16", "196 32 16 8", "196 128 64 32", f"324 64 32 16 {MANY}", f"324 128 64 32 {MANY}")
# SEEDS makes 100 superpixels of 64 pixels for 128 to 255 that are asked for.
SMALL = ("64 32 16", "64 16 8", "64 48 32", "100 48 32 --superpixels seeds:count=128,bins=5,iterations=4")
PAPER = imagenet100(TITLE, {"probe_in1k.sizes": SIZES})
PROBE = recipe("probe_in1k")
DEMO = embedded(TITLE, {"probe_in1k.sizes": SMALL}, then=PROBE, then_flags=NANO_PROBE)

if __name__ == "__main__":
    sys.exit(main(PAPER, demo=DEMO))
