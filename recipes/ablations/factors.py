"""Superpixels, pooling, or both?  The question of CAST, Table 3a, asked of classification.

    python recipes/ablations/factors.py --data folder:/path/to/imagenet --cluster slurm
    python recipes/ablations/factors.py --data demo

Four models of eleven blocks: a ViT on patches, on superpixels, on patches that are pooled, and CAST.  The
paper asks it of segmentation on VOC.
"""

from __future__ import annotations

import sys

from castssl.ablations.budgets import embedded, imagenet100
from castssl.ablations.study import main

TITLE = "Superpixels x pooling (Table 3a)"
MODELS = ("vit_small", "vit_small_superpixels", "vit_small_pooling", "cast_small")
PAPER = imagenet100(TITLE, {"model": MODELS})
SMALL = {
    "superpixels": ("grid:cell=8", "seeds:count=64,bins=5,iterations=4"),
    "sizes": ("64 64 64 64", "64 32 16 8"),  # Equal sizes have no pooling.
}
DEMO = embedded(TITLE, SMALL)

if __name__ == "__main__":
    sys.exit(main(PAPER, demo=DEMO))
