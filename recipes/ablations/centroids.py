"""Which tokens become centroids? (CAST, Table 5b: linear probe on IN-100 after MoCo.)

    python recipes/ablations/centroids.py --data folder:/path/to/imagenet --cluster slurm
    python recipes/ablations/centroids.py --data demo

The paper: farthest point sampling 79.9, random 71.2, most attended (PoWER-BERT) 71.6.
"""

from __future__ import annotations

import sys

from castssl.ablations.budgets import embedded, imagenet100
from castssl.ablations.study import main

TITLE = "Centroids (Table 5b)"
GRID = {"pooling": tuple(f"graph:centroids={name}" for name in ("farthest", "random", "received"))}

if __name__ == "__main__":
    sys.exit(main(imagenet100(TITLE, GRID), demo=embedded(TITLE, GRID)))
