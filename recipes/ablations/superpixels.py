"""Which superpixels?  CAST, Table 6: linear probe on IN-1K after MoCo; here on IN-100.

    python recipes/ablations/superpixels.py --data folder:/path/to/imagenet --cluster slurm
    python recipes/ablations/superpixels.py --data demo

The paper, on IN-1K: SEEDS 68.1, SLIC 65.6.  The SLICs come from plugins/castssl-slic; `castssl superpixels`
compares the partitions themselves.
"""

from __future__ import annotations

import sys

from castssl.ablations.budgets import embedded, imagenet100
from castssl.ablations.study import main

TITLE = "Superpixels (Table 6)"
NAMES = ("seeds", "seeds-fast", "slic", "skimage-slic", "device-slic")
PAPER = imagenet100(TITLE, {"superpixels": (*NAMES, "grid:cell=16")})
FEW = tuple(f"{name}:count=64" for name in NAMES)
DEMO = embedded(TITLE, {"superpixels": (*FEW, "grid:cell=8")})

if __name__ == "__main__":
    sys.exit(main(PAPER, demo=DEMO))
