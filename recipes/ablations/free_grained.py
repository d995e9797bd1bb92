"""Labels at any level: what trains best where fine labels are missing (Free-Grained, CVPR 2026).

    python recipes/ablations/free_grained.py --jobs 2
    python recipes/ablations/free_grained.py --jobs 2 --drawings DIR

DIR adds drawings on photographs (recipes/benchmarks/drawings.py).  A share of the fine labels of each class
is hidden, and each share has a table.  `hcast:weight=0` has the cross entropies alone, `hcast` the tree-path
divergence beside them, and `hcast:tie=1` another divergence that contains the tree (not in the paper).  Rows
with texts learn from descriptions of the training images, too.  `taxon-ssl` learns from its own predictions
on three views of each image, with a ViT; the weights of 0 take these away, and leave the same encoder.  Means
are over the images that have the label, with `level_mean=batch` over all images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from castssl.ablations.grid import SEED, Cell, Study, step
from castssl.ablations.study import on_small_data
from castssl.shipped import recipe

SUPERVISED = "hcast:weight=0,level_mean=labeled"
TREE_KL = "hcast:level_mean=labeled"
BATCH = "hcast:level_mean=batch"
TIE = "hcast:tie=1,level_mean=labeled"
TAXON_SSL = "taxon-ssl"
LABELS_ALONE = "taxon-ssl:pseudo_weight=0,contrast_weight=0"
"""The encoder, the classifiers and the first view of taxon-ssl, without what it adds to the known labels."""
ALONE = "texts alone"
"""A row of the results of the runs with texts: linear classifiers that see no image."""
QUIET = ("--workers", "0", "--eval-every", "0", "--knn-every", "1000")
TEXTS = ("--texts", "demo", "--text-encoder", "words:128")


class Row(NamedTuple):
    """What the runs of a row have in common."""

    method: str
    texts: str = "none"
    epochs: str = "default"


EVERY = (Row(SUPERVISED), Row(TREE_KL), Row(TIE), Row(TREE_KL, "demo"), Row(TAXON_SSL), Row(ALONE, "demo"))
CONTROLS = (Row(LABELS_ALONE), Row(LABELS_ALONE, epochs="16"))
Tables = Mapping[str, tuple[str, Sequence[Row]]]
DEMO: Tables = {
    "0": ("0", EVERY),
    "0.4": ("0.4", EVERY[:2]),
    "0.8": ("0.8", (*EVERY, Row(BATCH), *CONTROLS)),
    "0.95": ("0.95", EVERY[:2]),
    "0.8-tree-kl": ("0.8", (Row(TREE_KL), Row(TREE_KL, "demo"), Row(ALONE, "demo"), Row(BATCH))),
    "0.8-pseudo-labels": ("0.8", (CONTROLS[0], Row(TAXON_SSL), CONTROLS[1])),
}
"""Tables on the demo data: the share of hidden fine labels, and rows, which are compared with the first."""
DRAWN: Tables = {"0.8": ("0.8", tuple(Row(method) for method in (SUPERVISED, TREE_KL, TIE)))}
"""Those on drawings on photographs, which have no texts."""
COLUMNS = (
    *("fpa", "level0", "level1", "tice"),
    *("answer_consistency_accuracy", "answer_consistency_depth_levels", "answer_consistency_distance_levels"),
)


@dataclass(frozen=True, kw_only=True)
class FreeGrained(Study):
    """Some rows, and not all combinations of the grid."""

    hidden: str
    rows: Sequence[Row]

    def cells(self) -> list[Cell]:
        """Each row with each seed."""
        return [self._of(row, seed) for row in self.rows for seed in self.grid[SEED]]

    def _of(self, row: Row, seed: str) -> Cell:
        flags = (*self.flags, *(TEXTS if row.texts == "demo" else ()))
        flags += ("--epochs", row.epochs) if row.epochs != "default" else ()
        alone = row.method == ALONE
        named = {"method": TREE_KL if alone else row.method, "free-grain": self.hidden, SEED: seed}
        return Cell(
            {**row._asdict(), SEED: seed},
            (step(self.recipe, named, flags),),
            "texts" if alone else "trained",
        )


def studies(args: argparse.Namespace) -> Iterator[FreeGrained]:
    """The tables that the command line asks for."""
    small = ("--preset", "tiny", "--epochs", "30")
    kinds: list[tuple[str, str, tuple[str, ...], Tables]] = [("demo", args.data, (), DEMO)]
    if args.drawings:
        kinds.append(("drawings", f"folder:{args.drawings}", small, DRAWN))
    for kind, data, flags, tables in kinds:
        for name, (hidden, rows) in tables.items():
            yield FreeGrained(
                title=f"Labels at any level, {kind}, {100 * float(hidden):g} % of fine labels hidden",
                recipe=recipe("hcast"),
                flags=("--data", data, *flags, *QUIET, *args.rest),
                grid={
                    **{key: tuple(dict.fromkeys(getattr(row, key) for row in rows)) for key in Row._fields},
                    SEED: tuple(map(str, range(args.seeds))),
                },
                columns=COLUMNS,
                tables=f"{kind}-{name}",
                references=("majority", "chance"),
                hidden=hidden,
                rows=rows,
            )


if __name__ == "__main__":
    PURPOSE = "Labels at any level."
    sys.exit(on_small_data("free_grained", PURPOSE, Path("runs/ablations/free_grained"), studies))
