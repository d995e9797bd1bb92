"""Flags of the smallest runs that train: seconds on a processor."""

from __future__ import annotations

import shlex

NANO = shlex.split(
    "--model nano --image-size 32 --sizes 16 8 4 --superpixels seeds:count=16,bins=5,iterations=2"
)
"""A model of three small stages and its superpixels, for any recipe."""
MOCO = NANO + shlex.split(
    "--hidden 16 --out-dim 8 --batch-size 16 --lr 1e-3 --epochs 2 --warmup-epochs 1 --max-steps 2"
    " --knn-every 0"
)
"""Two steps of ``moco_in1k.py`` without kNN; the data, ``--workers`` and ``--out`` are to be added."""
