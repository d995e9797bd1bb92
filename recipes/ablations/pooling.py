"""Which pooling? (CAST, Table 5a: linear probe on IN-100 after MoCo.)

    python recipes/ablations/pooling.py --data folder:/path/to/imagenet --cluster slurm
    python recipes/ablations/pooling.py --data demo

The paper: graph 79.9, random 55.8, K-means 73.9, K-medoids 72.3, FINCH 63.3, Token Pooling 75.8, CTM 72.2,
ToMe 78.1.  All but `graph` and `random` come from plugins/castssl-clustering.  The paper's ToMe merges in
each layer: the row `tome --model tome_small`.  The row `tome` merges between the stages like the others.  For
the nano model of the demo the two are the same, since each of its stages has one layer.
"""

from __future__ import annotations

import sys

from castssl.ablations.budgets import embedded, imagenet100
from castssl.ablations.study import main

TITLE = "Pooling (Table 5a)"
OTHERS = ("random", "kmeans", "kmedoids", "finch", "token-pooling", "ctm", "tome")
POOLINGS = ("graph", "graph:cls=keep", *OTHERS)
GRID = {"pooling": (*POOLINGS, "tome --model tome_small")}

if __name__ == "__main__":
    sys.exit(main(imagenet100(TITLE, GRID), demo=embedded(TITLE, {"pooling": POOLINGS})))
