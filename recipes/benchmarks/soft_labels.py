"""Segments by the chain of argmaxes beside those by the product of the assignments (CAST, equation 2).

    python recipes/benchmarks/soft_labels.py --data demo --weights runs/demo-0 --image-size 128

Both are of the same assignments, so that only the labels differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from castssl.checkpoints import load_encoder
from castssl.config import check_least, launch
from castssl.data.evaluation_views import CenterView
from castssl.data.splits import open_splits
from castssl.evaluation.held_out import Evaluation, Subject
from castssl.evaluation.overlap import Overlap
from castssl.evaluation.report import metric
from castssl.registry import build_superpixels


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure both on the held-out images with masks."""

    data: str
    """Images with masks, as for the recipes."""
    weights: str
    """A run's folder, a file or a published checkpoint."""
    image_size: int = 0
    """Side in pixels; 0 = what the encoder was trained at."""
    workers: int = 0
    """Data-loading processes."""


def main(cfg: Config) -> None:
    """Print the table."""
    check_least(cfg, image_size=0, workers=0)
    encoder = load_encoder(cfg.weights)
    data, view = open_splits(cfg.data), CenterView(cfg.image_size or encoder.config.image_size)
    chain = Overlap(encoder.sizes)
    kinds = {"chain of argmaxes": chain, "product": replace(chain, soft=True)}
    superpixels = build_superpixels(encoder.config)
    evaluation = Evaluation(
        data.train, data.held_out, superpixels, view, list(kinds.values()), workers=cfg.workers
    )
    results = {title: evaluation(Subject(encoder), [one]) for title, one in kinds.items()}
    # The evaluator measures it of the product alone; segments of a chain are nested by construction.
    results["chain of argmaxes"]["nestedness"] = 1.0
    shown = Table("%", *results)
    for name in results["product"]:
        shown.add_row(metric(name).title, *(f"{100 * values[name]:.1f}" for values in results.values()))
    Console(width=110).print(shown)


if __name__ == "__main__":
    launch(main, Config)
