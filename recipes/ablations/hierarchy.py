"""H-CAST beside its baselines: full paths, consistency and segments (H-CAST's table of BREEDS).

    python recipes/ablations/hierarchy.py --data breeds:living17:/path/to/imagenet --cluster slurm
    python recipes/ablations/hierarchy.py --data demo

``hcast:weight=0`` is H-CAST without the tree-path divergence; ``hcast:tie=1`` has another beside it, which
knows the tree (not in the paper).  Flat models are one a level: as many epochs as the others cost them twice
as much; ``_hie`` are their results amended by HiE.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from castssl.ablations.budgets import SEEDS
from castssl.ablations.grid import Study
from castssl.ablations.study import main
from castssl.shipped import recipe

SMALL = ("hcast", "hcast:weight=0", "hcast:tie=1", "flat-cast", "hier-vit")
ALL = (*SMALL, "flat-vit", "transhp", "fgn", "hrn")
STUDY = Study(
    title="Recognition at all levels of a taxonomy",
    recipe=recipe("hcast"),
    grid={"method": ALL, "seed": SEEDS},
    flags=("--eval-every", "0", "--knn-every", "1000"),
)
DEMO = replace(STUDY, title=f"{STUDY.title}, on the embedded data set", grid={**STUDY.grid, "method": SMALL})

if __name__ == "__main__":
    sys.exit(main(STUDY, demo=DEMO))
