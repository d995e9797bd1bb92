"""Dense transfer in small: segment retrieval, then fine-tuning with heads (CAST, Table 3).

    python recipes/ablations/transfer.py --jobs 2
    python recipes/ablations/transfer.py --jobs 2 --drawings DIR    # of recipes/benchmarks/drawings.py

Nano models of Table 3a are pretrained by MoCo on the demo data, and transferred to the classes of its pixels.
`new` are encoders with new weights that are fine-tuned in the same way, and `colors:64` is the mean color of
each superpixel with the same head.  The second command adds drawings on photographs: drawing or photograph at
each pixel.  All tables share the pretrained encoders, which stay in the folder.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from castssl.ablations.budgets import NANO_MOCO
from castssl.ablations.grid import SEED, Cell, Study, step
from castssl.ablations.study import on_small_data
from castssl.errors import ConfigError
from castssl.shipped import recipe

CAST, VIT, COLORS = "nano_seg", "nano_vit_seg", "colors:64"
MODELS = (CAST, VIT, "nano_vit_superpixels_seg", "nano_vit_pooling_seg")
SUPERPIXELS = ("--superpixels", "seeds:count=64,bins=5,iterations=4")
"""Those of the nano CAST, for the encoder of colors, which has none of its own."""
PARTS = {"pretrained": "trained", "new": "untrained", "none": "mean color"}
"""What the results of segment retrieval call each kind of weights."""
RETRIEVAL = ("--image-size", "64", "--groups", "8", "--workers", "0")
TRAIN = ("--image-size", "64", "--batch-size", "32", "--eval-every", "0", "--workers", "0")
RATES = {
    **{"linear": "0.01", "segmenter": "0.01", "fused": "0.03"},
    **{"queries": "0.001", "frozen queries": "0.001"},
}
"""Each head's learning rate for models of this size."""
COLUMNS = ("miou", "boundary_f", "boundary_f_pooled", "boundary_f_any", "boundary_iou")


class Data(NamedTuple):
    """Images to pretrain on, and their label maps; ``--data`` of the recipes."""

    images: str
    maps: str
    epochs: int
    """Of pretraining and of each head."""


@dataclass(frozen=True, kw_only=True)
class Transfer(Study):
    """Encoders of MoCo, or new ones, and what follows.

    Args:
        rows: models and their weights, a key of :data:`PARTS`.
        head: of :data:`RATES`; "" is retrieval.
    """

    rows: tuple[tuple[str, str], ...]
    head: str = ""

    def cells(self) -> list[Cell]:
        """Each row with each seed."""
        return [self._of(*row, seed) for row in self.rows for seed in self.grid[SEED]]

    def _of(self, model: str, weights: str, seed: str) -> Cell:
        assert self.then is not None
        values, named = {"model": model, "weights": weights, "seed": seed}, {"model": model, "seed": seed}
        of_images = {"model": CAST if model == COLORS else model, "seed": seed}
        pretrained = step(self.recipe, of_images, self.flags)
        if not self.head:
            after = step(self.then, of_images, self.then_flags, pretrained)
            return Cell(values, (pretrained, after), PARTS[weights])
        frozen, name = self.head.split()[:-1], self.head.split()[-1]
        flags = (*self.then_flags, "--lr", RATES[self.head], *(f"--{word}" for word in frozen))
        named = {"head": name, **named}
        if weights == "pretrained":
            return Cell(values, (pretrained, step(self.then, named, flags, pretrained)))
        return Cell(values, (step(self.then, named, flags + SUPERPIXELS * (model == COLORS)),))


def studies(data: Data, kind: str, seeds: int, flags: list[str]) -> Iterator[Transfer]:
    """The tables of a data set, ``kind`` in their titles and folders."""
    epochs = ("--epochs", str(data.epochs))

    def table(head: str, rows: list[tuple[str, str]], seeds: int) -> Transfer:
        grid = {
            "model": tuple(dict.fromkeys(model for model, _ in rows)),
            "weights": tuple(dict.fromkeys(weights for _, weights in rows)),
            "seed": tuple(map(str, range(seeds))),
        }
        return Transfer(
            title=f"{head.capitalize() + ' head' if head else 'Segment retrieval'}, {kind}",
            recipe=recipe("moco_in1k"),
            flags=("--data", data.images, *NANO_MOCO, *epochs, *flags),
            then=recipe("segment" if head else "retrieve_voc"),
            then_flags=("--data", data.maps, *((*TRAIN, *epochs) if head else RETRIEVAL)),
            grid=grid,
            columns=COLUMNS,
            tables=f"{kind}-{head.replace(' ', '-') or 'retrieval'}",
            references=("majority", "chance"),
            rows=tuple(rows),
            head=head,
        )

    small = kind != "demo"
    models = MODELS[:2] if small else MODELS
    every = [(model, weights) for weights in ("pretrained", "new") for model in models]
    every.append((COLORS, "none"))
    if not small:
        yield table("", every, seeds)
    yield table("linear", every, seeds)
    if not small:
        yield table("segmenter", every[: len(models)], seeds)
        for head in ("fused", "queries", "frozen queries"):
            yield table(head, every[:2], 1)


def linked(drawings: Path, out: Path) -> Data:
    """The drawings as pairs of images and label maps, by links in ``out``.

    Raises:
        ConfigError: if it is not a folder of drawings, or ``out`` has something else in the place of a link.
    """
    for name in ("train", "val", "masks"):
        if not (drawings / name).is_dir():
            raise ConfigError(
                f"--drawings: there is no {drawings / name}; make the set by recipes/benchmarks/drawings.py"
            )
    for part, source in (("images", drawings), ("labels", drawings / "masks")):
        for split in ("train", "val"):
            link = out / "drawings" / part / split
            link.parent.mkdir(parents=True, exist_ok=True)
            target = (source / split).resolve()
            if not os.path.lexists(link):
                link.symlink_to(target, target_is_directory=True)
            elif not link.is_symlink() or link.resolve() != target:
                raise ConfigError(f"{link} exists, and is not a link to {target}; choose another --out")
    return Data(f"folder:{drawings}", f"pairs:{out / 'drawings'}?values=0,255", 32)


def asked(args: argparse.Namespace) -> list[Transfer]:
    """The tables that the command line asks for."""
    _, _, options = args.data.partition(":")
    demo = Data(args.data, f"demo-maps:{options}" if options else "demo-maps", 8)
    found = list(studies(demo, "demo", args.seeds, args.rest))
    if args.drawings:
        found += studies(linked(args.drawings, args.out), "drawings", args.seeds, args.rest)
    return found


if __name__ == "__main__":
    PURPOSE = "Retrieval, and segmentation after fine-tuning."
    sys.exit(on_small_data("transfer", PURPOSE, Path("runs/ablations/transfer"), asked))
