"""H-CAST beside its baselines: full paths, consistency and segments (H-CAST's table of BREEDS).

    python recipes/ablations/hierarchy.py --data breeds:living17:/path/to/imagenet --cluster slurm
    python recipes/ablations/hierarchy.py --data demo

``hcast:weight=0`` is H-CAST without the tree-path divergence; ``hcast:tie=1`` has another beside it, which
knows the tree (not in the paper).  Flat models are one per level: as many epochs as the others cost twice as
much; ``_hie`` are their results amended by HiE.  Below the table stand the numbers of H-CAST's poster.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from castssl.ablations.budgets import SEEDS
from castssl.ablations.grid import Study
from castssl.ablations.study import main
from castssl.shipped import recipe

POSTER = Path(__file__).with_name("hcast_poster.csv")
COLUMNS = {
    **{"method": "method", "parameters": "parameters (M)", "fpa": "FPA", "coarse": "coarse", "fine": "fine"},
    **{"wap": "wAP", "tice": "TICE", "region_iou": "region mIoU"},
}
"""The poster's, with their titles."""


def poster() -> dict[str, str]:
    """The poster's table of each data set, in Markdown, by what stands in ``--data``."""
    with POSTER.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return {
        "breeds:" + data.replace("-", "").lower(): "\n".join(_table(data, rows))
        for data in dict.fromkeys(row["data"] for row in rows)
    }


def _table(data: str, rows: list[dict[str, str]]) -> Iterator[str]:
    yield f"**{data}** by H-CAST's poster (ICLR 2025), in %. The poster counts three models for Flat-ViT"
    yield "and Flat-CAST; BREEDS has two levels, so two are enough. The cells that contradict others"
    yield "are listed in `recipes/hierarchy.md`.\n"
    yield "| " + " | ".join(COLUMNS.values()) + " |"
    yield "| --- |" + " --: |" * (len(COLUMNS) - 1)
    for row in rows:
        if row["data"] == data and row["method"] != "gain":
            yield "| " + " | ".join(row[name] for name in COLUMNS) + " |"


SMALL = ("hcast", "hcast:weight=0", "hcast:tie=1", "flat-cast", "hier-vit")
ALL = (*SMALL, "flat-vit", "transhp", "fgn", "hrn")
STUDY = Study(
    title="Recognition at all levels of a taxonomy",
    recipe=recipe("hcast"),
    grid={"method": ALL, "seed": SEEDS},
    flags=("--eval-every", "0", "--knn-every", "1000"),
    published=poster(),
)
DEMO = replace(STUDY, title=f"{STUDY.title}, on the embedded data set", grid={**STUDY.grid, "method": SMALL})

if __name__ == "__main__":
    sys.exit(main(STUDY, demo=DEMO))
