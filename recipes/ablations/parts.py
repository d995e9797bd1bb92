"""Objects and parts in segments that no mask trained: CAST, a ViT with K-means, colors, and chance (Table 1).

    python recipes/ablations/parts.py --jobs 2 --out runs/transfer
    python recipes/ablations/parts.py --jobs 2 --out runs/transfer --drawings DIR

DIR adds drawings on photographs (recipes/benchmarks/drawings.py).  The encoders are those of
recipes/ablations/transfer.py, and are pretrained where its folder lacks them.  `new` are encoders with new
weights.  `merge` is superpixels merged by color, without learning, and `random` merged at random.  Numbers of
segments are the same in all rows, 8 for objects and 16 for parts; CAST's 8 come from a pooling that was never
trained, and so objects in 16 segments have a column, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from castssl.ablations.budgets import NANO_MOCO
from castssl.ablations.grid import SEED, Cell, Study, step
from castssl.ablations.study import on_small_data
from castssl.shipped import recipe

SEGMENTERS = {
    "nano_seg": "cast:WEIGHTS",
    "nano_vit_seg": "kmeans:WEIGHTS,sizes=(32,16,8)",
    "merge": "merge:sizes=(32,16,8)",
    "random": "merge:by=random,sizes=(32,16,8),seed=SEED",
}
"""By the name of their row; the first two are encoders."""
ENCODERS = ("nano_seg", "nano_vit_seg")
ROWS = (
    *((model, "pretrained") for model in ENCODERS),
    *((model, "new") for model in ENCODERS),
    *(("merge", "none"), ("random", "none")),
)
OBJECTS = ("objects_8", "objects_16", "object_boundary_8", "object_boundary_16", "object_recall")
PARTS = ("parts_16", "part_boundary_16", "part_recall")


@dataclass(frozen=True, kw_only=True)
class Parts(Study):
    """Segmenters, and the encoders that some of them need."""

    def cells(self) -> list[Cell]:
        """Each row with each seed; colors have no seed, and so one run."""
        seeds = self.grid[SEED]
        return [self._of(*row, seed) for row in ROWS for seed in (seeds[:1] if row[0] == "merge" else seeds)]

    def _of(self, name: str, weights: str, seed: str) -> Cell:
        assert self.then is not None
        values = {"segmenter": name, "weights": weights, "seed": seed}
        named = {"segmenter": SEGMENTERS[name], "seed": seed}
        if weights == "pretrained":
            pretrained = step(self.recipe, {"model": name, "seed": seed}, self.flags)
            return Cell(values, (pretrained, step(self.then, named, self.then_flags, pretrained)))
        model = ("--model", name) * (weights == "new")
        return Cell(values, (step(self.then, named, (*self.then_flags, *model)),))


def study(data: str, epochs: int, kind: str, seeds: int, flags: list[str]) -> Parts:
    """The table of a data set, ``kind`` in its title and folder."""
    return Parts(
        title=f"Objects and parts, {kind}",
        recipe=recipe("moco_in1k"),
        flags=("--data", data, *NANO_MOCO, "--epochs", str(epochs), *flags),
        then=recipe("benchmarks/parts"),
        then_flags=("--data", data),
        grid={
            "segmenter": tuple(SEGMENTERS),
            "weights": ("pretrained", "new", "none"),
            "seed": tuple(map(str, range(seeds))),
        },
        columns=OBJECTS + PARTS * (kind == "demo"),
        tables=f"{kind}-parts",
    )


def studies(args: argparse.Namespace) -> Iterator[Parts]:
    """The tables that the command line asks for."""
    yield study(args.data, 8, "demo", args.seeds, args.rest)
    if args.drawings:
        yield study(f"folder:{args.drawings}", 32, "drawings", args.seeds, args.rest)


if __name__ == "__main__":
    PURPOSE = "Segments on objects and parts."
    sys.exit(on_small_data("parts", PURPOSE, Path("runs/ablations/transfer"), studies))
