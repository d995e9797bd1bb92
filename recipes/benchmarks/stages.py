"""What each stage costs: ms of its blocks, of the pooling after it, and of the pooling's sampling (Table 7).

    python recipes/benchmarks/stages.py --device cuda --batch 256 --precision fp32
    python recipes/ablations/latency.py    # The same as a table over models, poolings and repetitions.

Tokens are random numbers, all of them valid.  Parts take turns within each round; the median round counts.
The paper measured batches of 256, on a Titan V as it seems (CAST, appendix A.4, Table 7): compare the shares
and not the milliseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal, cast

import torch
from rich.console import Console
from rich.table import Table

from castssl import Tokens, create
from castssl.config import TYPED, check_least, launch
from castssl.devices import check_device, machine
from castssl.errors import ConfigError
from castssl.files import write_text
from castssl.models.cast import CAST
from castssl.outputs import check_outputs
from castssl.pooling.centroids import farthest

PAPER = {
    196: (86.43, 63.02, 37.64),
    64: (25.4, 18.2, 9.7),
    32: (12.9, 9.6, 3.0),
    16: (5.0, 6.1, 1.5),
}
"""Tokens -> ms of blocks, pooling, and its sampling."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure a model stage by stage."""

    model: str = "cast_small"
    """cast_small, cast_small_deep, cast_base, ... (any name of castssl's with poolings)."""
    sizes: tuple[int, ...] | None = None
    """Tokens of each stage, fine to coarse; by default the model's own."""
    tokens: int | None = None
    """Measure the stages of so many tokens alone; by default all."""
    pooling: str = "graph"
    """A pooling with options, such as graph:centroids=random."""
    batch: int = 16
    """Images of one pass."""
    rounds: int = 10
    """Rounds that count, after two that do not."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic (autocast)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What to measure on."""
    threads: int = torch.get_num_threads()
    """Threads of the CPU."""
    seed: int = 0
    """Of the random tokens and weights."""
    out: Path | None = None
    """A folder that gets results.json: the ms of all that was measured, summed over stages."""
    overwrite: bool = field(default=False, metadata=TYPED)
    """Replace a file that is there."""


Job = tuple[int, str]
"""A stage, and which of its parts."""


def parts(cfg: Config, model: CAST) -> dict[Job, Callable[[], Any]]:
    """What is measured."""
    if cfg.tokens not in (None, *model.sizes):
        raise ConfigError(
            f"--tokens {cfg.tokens}: {cfg.model} has stages of {model.sizes}; give one of these"
        )
    jobs: dict[Job, Callable[[], Any]] = {}
    for stage, size in enumerate(model.sizes):
        if cfg.tokens not in (None, size):
            continue
        x, cls = torch.randn(cfg.batch, size, model.dim), torch.randn(cfg.batch, 1, model.dim)
        tokens = Tokens(x, cls, torch.ones(cfg.batch, size))
        if model.depths[stage]:
            needs = model.pooling(stage).needs if stage < len(model.poolings) else ()
            jobs[stage, "blocks"] = partial(model.stages[stage], tokens, needs)
        if stage < len(model.poolings):
            coarser = model.sizes[stage + 1]
            attended = tokens._replace(received=torch.rand(cfg.batch, size))
            jobs[stage, "pooling"] = partial(model.pooling(stage), attended, coarser)
            if getattr(model.poolings[stage], "centroids", "") == "farthest":
                jobs[stage, "sampling"] = partial(farthest, x, tokens.mass > 0, coarser)
    return jobs


def measure(cfg: Config, jobs: dict[Job, Callable[[], Any]]) -> dict[Job, float]:
    """Milliseconds of each part, median over rounds."""
    settle = torch.cuda.synchronize if cfg.device == "cuda" else int
    seconds: dict[Job, list[float]] = {job: [] for job in jobs}
    for _, (job, run) in product(range(2 + cfg.rounds), jobs.items()):
        settle()
        began = time.perf_counter()
        with torch.no_grad(), torch.autocast(cfg.device, torch.bfloat16, enabled=cfg.precision == "bf16"):
            run()
        settle()
        seconds[job].append(time.perf_counter() - began)
    return {job: 1e3 * median(values[2:]) for job, values in seconds.items()}


def sums(took: dict[Job, float]) -> dict[str, float]:
    """Milliseconds by part, over all stages; named as castssl.evaluation.report has units."""
    total: dict[str, float] = {}
    for (_, part), ms in took.items():
        total[f"{part}_ms"] = total.get(f"{part}_ms", 0.0) + ms
    return total


def main(cfg: Config) -> None:
    """Print the table."""
    check_least(cfg, rounds=1, batch=1, threads=1)
    torch.set_num_threads(cfg.threads)
    torch.set_default_device(check_device(cfg.device))
    torch.manual_seed(cfg.seed)
    model = cast(CAST, create(cfg.model, sizes=cfg.sizes, pooling=cfg.pooling)).eval()
    jobs = parts(cfg, model)
    if cfg.out:
        check_outputs([cfg.out / "results.json"], overwrite=cfg.overwrite)
    took = measure(cfg, jobs)
    columns = ("blocks, ms", "pooling, ms", "sampling in it, ms", "sampling of pooling")
    table = Table("tokens", *columns, "paper: blocks", "pooling", "sampling", title=machine(cfg.device))
    table.caption = f"{cfg.model}, batches of {cfg.batch}, {cfg.precision}, median of {cfg.rounds} rounds"
    for stage, size in enumerate(model.sizes):
        if (stage, "blocks") not in took:
            continue
        ms = [took.get((stage, part)) for part in ("blocks", "pooling", "sampling")]
        share = f"{ms[2] / ms[1]:.0%}" if ms[1] and ms[2] else ""
        # The paper's rows are CAST-S's with its own sizes: 3, 3, 3 and 2 blocks of 384 channels.
        paper = (cfg.model, cfg.pooling, model.sizes[: len(PAPER)]) == ("cast_small", "graph", tuple(PAPER))
        published = PAPER[size] if paper and size in PAPER else ()
        shown = ["" if value is None else f"{value:.2f}" for value in ms]
        table.add_row(str(size), *shown, share, *(f"{value:g}" for value in published))
    Console(width=130).print(table)
    if cfg.out:
        write_text(cfg.out / "results.json", json.dumps({"trained": sums(took)}), "results")


if __name__ == "__main__":
    launch(main, Config)
