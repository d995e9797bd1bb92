"""Labels that attend to an image (HSVLT): against a plain head, on CAST's segments, and part by part.

    python recipes/ablations/multilabel.py --jobs 2                    # the table `heads`, on demo-many
    python recipes/ablations/multilabel.py --jobs 2 --tables heads aggregation attention blocks
    python recipes/ablations/multilabel.py --data coco14:/path/to/coco --tables all --cluster slurm

`heads` compares HSVLT, the same trunk with a linear classifier on its last class token, and HSVLT on CAST's
segments, each trained and with new weights.  The other tables are the first three experiments of HSVLT
(https://arxiv.org/abs/2407.16244): without aggregation of the stages, standard attention in place of the
interactive one, and the number of interactions.  All tables share the runs of HSVLT.  Other data than
demo-many takes the defaults of recipes/multilabel.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from castssl.ablations.grid import SEED, Cell, Study, add_flags, from_one, step
from castssl.ablations.study import claim, conduct
from castssl.errors import CastError
from castssl.shipped import recipe
from castssl.terminal import ignore_closed_streams

DEMO = "demo-many:size=64"
TRAINED, NEW = "trained", "new"
MAIN = ("mAP", "mAP_level1", "CF1", "OF1", "without_parent")
TABLES = ("heads", "aggregation", "attention", "blocks")


class Budget(NamedTuple):
    """How a data set is trained on."""

    flags: tuple[str, ...]
    trunk: str
    segments: str
    """CAST."""
    hsvlt: str
    """The objective of the rows that others are compared with."""
    blocks: tuple[str, ...]
    """Options of the objective with other numbers of interactions."""
    stages: int
    """Of the trunk."""


PAPER = Budget(
    flags=(),
    trunk="timm-features:convnext_small",
    segments="cast_small",
    hsvlt="multilabel",
    blocks=("blocks=1", "blocks=2", "blocks=3"),
    stages=4,
)
SMALL = Budget(
    flags=("--preset", "small", "--workers", "0", "--eval-every", "0", "--knn-every", "0"),
    trunk="timm-features:test_resnet",
    segments="nano",
    hsvlt="multilabel:norm=pre,init=scaled",
    blocks=("interact=stage,blocks=2", "interact=stage,blocks=3"),
    stages=5,
)
"""New weights learn with a norm, larger initial weights and a rate far above the released ones."""


@dataclass(frozen=True, kw_only=True)
class Rows(Study):
    """Rows of a model, an objective and whether it was trained: not all combinations."""

    rows: Sequence[tuple[str, str, str]]

    def cells(self) -> list[Cell]:
        """Each row with each seed; the rows of new weights are a part of the results of the trained ones."""
        return [self._of(*row, seed) for row in self.rows for seed in self.grid[SEED]]

    def _of(self, model: str, objective: str, weights: str, seed: str) -> Cell:
        named = {"model": model, "objective": objective, SEED: seed}
        part = "trained" if weights == TRAINED else "untrained"
        values = {"model": model, "objective": objective, "weights": weights, SEED: seed}
        return Cell(values, (step(self.recipe, named, self.flags),), part)


def with_option(objective: str, option: str) -> str:
    """An objective with one more option."""
    return f"{objective}{',' if ':' in objective else ':'}{option}"


def studies(data: str, budget: Budget, tables: Sequence[str], seeds: int, flags: list[str]) -> Iterator[Rows]:
    """The tables of a data set."""
    trunk, hsvlt = budget.trunk, budget.hsvlt
    heads = [(trunk, hsvlt), (trunk, "multilabel:head=plain"), (budget.segments, hsvlt)]
    stages = range(budget.stages)
    attended = [f"attention_{kind}_{stage}" for kind in ("on_object", "of_others") for stage in stages]

    def table(title: str, name: str, pairs: list[tuple[str, str]], columns: Sequence[str], new: bool) -> Rows:
        rows = [(*pair, weights) for weights in (TRAINED, NEW)[: 1 + new] for pair in pairs]
        grid = {
            "model": tuple(dict.fromkeys(model for model, _, _ in rows)),
            "objective": tuple(dict.fromkeys(objective for _, objective, _ in rows)),
            "weights": tuple(dict.fromkeys(weights for _, _, weights in rows)),
            SEED: tuple(map(str, range(seeds))),
        }
        return Rows(
            title=title,
            recipe=recipe("multilabel"),
            flags=("--data", data, *budget.flags, *flags),
            grid=grid,
            rows=rows,
            columns=tuple(columns),
            tables=name,
            references=("majority", "chance"),
        )

    def parts(*options: str) -> list[tuple[str, str]]:
        return [(trunk, hsvlt), *((trunk, with_option(hsvlt, option)) for option in options)]

    if "heads" in tables:
        yield table("Many labels: heads", "heads", heads, MAIN, True)
        others = [pair for pair in heads if "head=plain" not in pair[1]]
        columns = ("area_of_object", *attended)
        yield table("Many labels: attention of labels", "heads-attention", others, columns, True)
    changed = {
        "aggregation": ("aggregation=none", "aggregation=hamburger"),
        "attention": ("attention=standard",),
        "blocks": budget.blocks,
    }
    for name, options in changed.items():
        if name in tables:
            yield table(f"Many labels: {name}", name, parts(*options), MAIN, False)


def main() -> int:
    """Run what is not finished and write the tables; 0 if all cells finished."""
    ignore_closed_streams()
    parser = argparse.ArgumentParser("multilabel", description="Labels that attend, on data of many labels.")
    parser.add_argument("--data", default=DEMO, help=f"data of many labels per image (default: {DEMO})")
    text = "which tables (default: heads)"
    parser.add_argument("--tables", nargs="+", choices=(*TABLES, "all"), default=["heads"], help=text)
    text = "repetitions of a row, with seeds 0 to N - 1 (default: 3)"
    parser.add_argument("--seeds", type=from_one, default=3, metavar="N", help=text)
    add_flags(parser)
    args = parser.parse_args()
    small = args.data.partition(":")[0] == "demo-many"
    args.out = args.out or Path("runs/ablations") / f"multilabel{'-demo' * small}"
    tables = TABLES if "all" in args.tables else args.tables
    budget = SMALL if small else PAPER
    codes = [0]
    try:
        if not args.dry_run:
            claim(args.out, overwrite=args.overwrite)
        for study in list(studies(args.data, budget, tables, args.seeds, args.rest)):
            codes.append(conduct(study, args, "multilabel"))
            if codes[-1] == 130:  # stopped
                break
    except CastError as error:
        print(f"multilabel: {error}", file=sys.stderr)
        return 2
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
