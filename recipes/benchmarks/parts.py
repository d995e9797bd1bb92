"""Score one segmenter on objects and their parts, as a run of the study recipes/ablations/parts.py.

    python recipes/benchmarks/parts.py --data demo --segmenter merge --out runs/parts-merge
    python recipes/benchmarks/parts.py --data demo --segmenter cast:WEIGHTS --weights RUN --out runs/parts

``castssl parts`` prints more, of several segmenters side by side.  Each segment has the class that it shares
most pixels with.  A name ends with the number of segments that it was measured with, 8 or 16: these are the
two coarsest levels of the segmenter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from castssl.checkpoints.native import save_encoder
from castssl.config import TYPED, check_least, launch
from castssl.datasets.part_sets import open_parts
from castssl.errors import ConfigError
from castssl.evaluation.parts import Levels, PartScores, score_parts
from castssl.evaluation.report import table
from castssl.files import write_text
from castssl.models.create import create
from castssl.outputs import check_outputs
from castssl.registry import build_segmenter
from castssl.segmenter import Segmenter

WEIGHTS = "WEIGHTS"
"""What stands in a segmenter's name for the file of weights."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Score a segmenter on the held-out images."""

    data: str
    """As for castssl parts."""
    segmenter: str
    """Its name and options; WEIGHTS stands for --weights or the file of a new model."""
    weights: str | None = None
    """Of the segmenter."""
    model: str | None = None
    """A model with new weights, in place of --weights."""
    image_size: int = 64
    """Of the new model."""
    seed: int = 0
    """Of the new weights, and of a segmenter whose options have seed=SEED."""
    out: Path = Path("runs/parts")
    """Receives results.json, and with --model new.safetensors."""
    overwrite: bool = field(default=False, metadata=TYPED)
    """Replace these files if they are there."""


class Kept(Segmenter):
    """A segmenter whose maps are computed once for each image."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter, self._maps = segmenter, dict[str, NDArray[np.int32]]()
        self.nested, self.untrained = segmenter.nested, segmenter.untrained

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> NDArray[np.int32]:
        """uint8 (H, W, 3) -> int32 (L, H, W)."""
        if name not in self._maps:
            self._maps[name] = self._segmenter(image, name)
        return self._maps[name]


def named(scores: PartScores, objects: int, *, parts: bool) -> dict[str, float]:
    """The numbers of one choice of levels."""
    of = scores.objects
    found = {f"objects_{objects}": of.region_iou, f"object_boundary_{objects}": of.boundary_f}
    if objects == 8:
        found["object_recall"] = of.recall
        if parts:
            found |= {"parts_16": scores.parts.region_iou, "part_boundary_16": scores.parts.boundary_f}
            found["part_recall"] = scores.parts.recall
    return found


def main(cfg: Config) -> None:
    """Score, print and write."""
    check_least(cfg, image_size=1)
    result, new = cfg.out / "results.json", cfg.out / "new.safetensors"
    check_outputs([result, *([new] if cfg.model else [])], overwrite=cfg.overwrite)
    if WEIGHTS in cfg.segmenter and (cfg.weights is None) == (cfg.model is None):
        raise ConfigError(f"--segmenter {cfg.segmenter}: give its weights by --weights, or a new --model")
    weights = cfg.weights or str(new)
    if cfg.model is not None:
        torch.manual_seed(cfg.seed)
        save_encoder(create(cfg.model, image_size=cfg.image_size), Path(weights))
    # In this order: a path of weights may contain the word.
    spec = cfg.segmenter.replace("SEED", str(cfg.seed)).replace(WEIGHTS, weights)
    kept, data = Kept(build_segmenter(spec)), open_parts(cfg.data, "val")
    numbers: dict[str, float] = {}
    for objects, levels in ((8, Levels(-1, -2)), (16, Levels(-2, -2))):
        scored = score_parts({spec: kept}, data, levels=levels, recall=objects == 8)[spec]
        if scored.unscored:
            raise ConfigError(f"{len(scored.unscored)} images have no score: {scored.unscored}")
        numbers |= named(scored.rows[0], objects, parts=bool(data.names.part_names))
    Console().print(table(trained=numbers))
    write_text(result, json.dumps({"trained": numbers}, indent=1) + "\n", "scores")


if __name__ == "__main__":
    launch(main, Config)
