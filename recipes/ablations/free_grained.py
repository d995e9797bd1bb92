"""Labels at any level: what trains best where fine labels are missing (Free-Grained, CVPR 2026).

    python recipes/ablations/free_grained.py --jobs 2
    python recipes/ablations/free_grained.py --jobs 2 --drawings DIR

DIR adds drawings on photographs (recipes/benchmarks/drawings.py).  A share of the fine labels of each class
is hidden.  `hcast:weight=0` has the cross entropies alone, `hcast` the tree-path divergence beside them, and
`hcast:tie=1` another divergence that contains the tree (not in the paper).  Rows with texts learn from
descriptions of the training images, too, and `taxon-ssl` from its own predictions.  All means are over the
images that have the label.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from castssl.ablations.grid import SEED, Cell, Study, step
from castssl.ablations.study import on_small_data
from castssl.shipped import recipe

SUPERVISED = "hcast:weight=0,level_mean=labelled"
TREE_KL = "hcast:level_mean=labelled"
TIE = "hcast:tie=1,level_mean=labelled"
TAXON_SSL = "taxon-ssl"
ALONE = "texts alone"
"""A row of the results of the runs with texts: linear classifiers that see no image."""
TEXTS = ("--texts", "demo", "--text-encoder", "words:128")
EVERY = ((SUPERVISED, "none"), (TREE_KL, "none"), (TIE, "none"), (TREE_KL, "demo"), (TAXON_SSL, "none"))
ROWS = (
    *((*row, hidden) for hidden in ("0", "0.8") for row in (*EVERY, (ALONE, "demo"))),
    *((*row, hidden) for hidden in ("0.4", "0.95") for row in EVERY[:2]),
)
"""On the demo data: method, texts, and the share of hidden fine labels."""
DRAWN = tuple((method, "none", "0.8") for method in (SUPERVISED, TREE_KL, TIE))
"""On drawings on photographs, which have no texts."""
COLUMNS = (
    *("fpa", "level0", "level1", "tice"),
    *("answer_consistency_accuracy", "answer_consistency_depth_levels", "answer_consistency_distance_levels"),
)


@dataclass(frozen=True, kw_only=True)
class FreeGrained(Study):
    """Rows of a method, texts and a share of hidden labels: not all combinations."""

    rows: Sequence[tuple[str, str, str]]

    def cells(self) -> list[Cell]:
        """Each row with each seed."""
        return [self._of(*row, seed) for row in self.rows for seed in self.grid[SEED]]

    def _of(self, method: str, texts: str, hidden: str, seed: str) -> Cell:
        flags = (*self.flags, *(TEXTS if texts == "demo" else ()))
        alone = method == ALONE
        named = {"method": TREE_KL if alone else method, "free-grain": hidden, SEED: seed}
        values = {"method": method, "texts": texts, "hidden": hidden, SEED: seed}
        return Cell(values, (step(self.recipe, named, flags),), "texts" if alone else "trained")


def study(
    data: str, kind: str, rows: Sequence[tuple[str, str, str]], seeds: int, flags: list[str]
) -> FreeGrained:
    """The table of a data set, ``kind`` in its title and folder."""
    small = ("--preset", "tiny", "--epochs", "30") if kind == "drawings" else ()
    return FreeGrained(
        title=f"Labels at any level, {kind}",
        recipe=recipe("hcast"),
        flags=("--data", data, *small, "--workers", "0", "--eval-every", "0", "--knn-every", "1000", *flags),
        grid={
            "method": tuple(dict.fromkeys(method for method, _, _ in rows)),
            "texts": tuple(dict.fromkeys(texts for _, texts, _ in rows)),
            "hidden": tuple(dict.fromkeys(hidden for _, _, hidden in rows)),
            SEED: tuple(map(str, range(seeds))),
        },
        rows=rows,
        columns=COLUMNS,
        tables=kind,
        references=("majority", "chance"),
    )


def studies(args: argparse.Namespace) -> Iterator[FreeGrained]:
    """The tables that the command line asks for."""
    yield study(args.data, "demo", ROWS, args.seeds, args.rest)
    if args.drawings:
        yield study(f"folder:{args.drawings}", "drawings", DRAWN, args.seeds, args.rest)


if __name__ == "__main__":
    PURPOSE = "Labels at any level."
    sys.exit(on_small_data("free_grained", PURPOSE, Path("runs/ablations/free_grained"), studies))
