"""How fast and how large the dense model is, beside one that has features at every pixel.

    python recipes/benchmarks/dense.py --device cuda --batch 8

The tokens of the dense model are means over pixels of features that are resized to the label map.  "pixels"
resizes them, as the published code does; "cells" is castssl's way, see castssl.tokens.interpolation.  Jobs
take turns; the median round counts.  "means" are the segment means of given features and positions, without
gradient.  Peak memory is that of a process of its own for each of the two (with a GPU: of its tensors).
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import castssl
from castssl.config import check_least, launch
from castssl.devices import check_device, machine
from castssl.models import dense
from castssl.registry import build
from castssl.tokens.interpolation import Mode, resized_mean
from castssl.tokens.segments import segment_mean

START = "fork" if sys.platform == "linux" else "spawn"
"""How processes begin; this one has computed nothing by then, so that a fork has no memory of it."""
Means = Callable[[Tensor, Tensor, int, Mode], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure two ways to make the tokens of the dense model side by side."""

    model: str = "cast_small_dense"
    """The dense model."""
    side: int = 512
    """Pixels of an image's side."""
    batch: int = 2
    """Images of one pass."""
    rounds: int = 3
    """Rounds that count, after one that does not."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What to measure on."""
    threads: int = torch.get_num_threads()
    """Threads of the CPU."""


def by_pixels(features: Tensor, segments: Tensor, size: int, mode: Mode) -> tuple[Tensor, Tensor]:
    """As :func:`castssl.tokens.interpolation.resized_mean`, with features at every pixel."""
    resized = F.interpolate(features, segments.shape[-2:], mode=mode, align_corners=False)
    return segment_mean(resized.expand(len(segments), -1, -1, -1), segments, size)


WAYS: dict[str, Means] = {"pixels": by_pixels, "cells": resized_mean}


def jobs(cfg: Config) -> dict[tuple[str, str], Callable[[], object]]:
    """What to measure, by kind of work and way."""
    model: Any = castssl.create(cfg.model, image_size=cfg.side)
    coarse = torch.rand(cfg.batch, 3, cfg.side // 12, cfg.side // 12)
    image = F.interpolate(coarse, (cfg.side, cfg.side), mode="bicubic").clamp(0, 1)
    labels = build("superpixels", model.config.superpixels)((image.cpu() * 255).byte())
    view = castssl.View(image, labels.to(image.device))
    with torch.no_grad():
        features = model.stem(view.image)

    def means(way: Means) -> None:
        with torch.no_grad():
            way(features, view.segments, model.sizes[0], "bilinear")
            way(model.positions, view.segments, model.sizes[0], "bicubic")

    def forward(way: Means, back: bool) -> None:
        model.train(back)
        with patch.object(dense, "resized_mean", way), torch.set_grad_enabled(back):
            cls = model(view).stages[-1].cls
        if back:
            cls.square().mean().backward()
            model.zero_grad()

    kinds: dict[str, Callable[[Means], None]]
    kinds = {"means": means, "forward": partial(forward, back=False)}
    kinds["+ backward"] = partial(forward, back=True)
    return {
        (kind, name): partial(run, way) for (kind, run), (name, way) in product(kinds.items(), WAYS.items())
    }


def measure(cfg: Config) -> dict[tuple[str, str], float]:
    """Seconds of each job, median over rounds."""
    settle = torch.cuda.synchronize if cfg.device == "cuda" else int
    work = jobs(cfg)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    for _, (key, run) in product(range(1 + cfg.rounds), work.items()):
        settle()
        began = time.perf_counter()
        run()
        settle()
        seconds[key].append(time.perf_counter() - began)
    return {key: median(values[1:]) for key, values in seconds.items()}


def peak(cfg: Config, way: str) -> float:
    """MB at most, of a process that runs one pass with backward."""
    begin(cfg)
    jobs(cfg)["+ backward", way]()
    if cfg.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")  # of this program; what getrusage knows begins with that of its parent
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def begin(cfg: Config) -> None:
    """The settings of a process."""
    torch.set_num_threads(cfg.threads)
    torch.set_default_device(check_device(cfg.device))
    torch.manual_seed(0)


def main(cfg: Config) -> None:
    """Print the table."""
    check_least(cfg, rounds=1, side=1, batch=1, threads=1)
    with multiprocessing.get_context(START).Pool(1, maxtasksperchild=1) as pool:
        memory = dict(zip(WAYS, pool.starmap(peak, [(cfg, way) for way in WAYS], chunksize=1), strict=True))
    begin(cfg)
    took = measure(cfg)
    caption = f"{cfg.model}, {cfg.batch} images of {cfg.side} x {cfg.side}, {cfg.rounds} rounds, s per batch"
    table = Table("", *WAYS, "ratio", title=machine(cfg.device), caption=caption, min_width=90)
    for kind in dict.fromkeys(kind for kind, _ in took):
        pixels, cells = (took[kind, way] for way in WAYS)
        table.add_row(kind, f"{pixels:.3g}", f"{cells:.3g}", f"{cells / pixels:.2f}")
    pixels, cells = memory.values()
    table.add_row("peak memory, MB", f"{pixels:.0f}", f"{cells:.0f}", f"{cells / pixels:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    launch(main, Config)
