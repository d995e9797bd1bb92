"""How time and memory grow with resolution: CAST beside a ViT with the same number of tokens.

    python recipes/benchmarks/resolution.py --sides 512 768 1024 --device cuda --batch 8 --rounds 10

A patch, and a superpixel on average, has 16 x 16 pixels: 1,024 tokens at 512 pixels, 4,096 at 1,024.  CAST
keeps 5/16 of them after its first pooling (320 of 1,024, as the published models for segmentation do), then
half and half again.  Superpixels are given, and not part of the time.

What grows fastest is attention between all tokens: 4 N^2 D operations a layer for N tokens.  ViT has it in
all layers.  CAST has it in its first stage and its first pooling; its other layers see at most 5/16 of the
tokens, and so a tenth of the pairs.  Farthest point sampling reads the distances of each pick to N tokens,
5/16 N^2 D products, without a matrix of N x N in memory above 3,000 tokens.  All else grows as N, that is, as
pixels: nothing grows as the square of pixels but what grows as the square of tokens.

Each model and resolution has a process of its own.  Milliseconds are of the CPU on a CPU, of all threads
together, so that other work on the machine hardly matters.  The median round counts, after one forward that
does not.  Memory is the peak of the process (with a GPU: of its tensors), weights and libraries included.
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
from typing import Any, Literal, NamedTuple

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

import castssl
from castssl.config import check_least, launch
from castssl.devices import check_device, machine
from castssl.encoder_config import override
from castssl.errors import ConfigError
from castssl.models.presets import find_config
from castssl.pooling.farthest_point import by_blocks, by_matrix, by_rows

START = "fork" if sys.platform == "linux" else "spawn"
"""How processes begin; this one has computed nothing by then, so that a fork has no memory of it."""
PATCH = 16


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure two models side by side at several resolutions."""

    model: str = "cast_small"
    """A model of castssl."""
    vit: str = "vit_small_patch16_224"
    """A model of timm with patches of 16 pixels. Ratios are to it."""
    sides: tuple[int, ...] = (512, 768, 1024)
    """Pixels of an image's side; multiples of 64."""
    batch: int = 1
    """Images of one pass."""
    rounds: int = 1
    """Rounds that count."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What to measure on."""
    threads: int = torch.get_num_threads()
    """Threads of the CPU."""


class Cost(NamedTuple):
    """Of one model at one resolution: milliseconds and MB for forward, and with backward."""

    forward: float
    forward_memory: float
    backward: float
    backward_memory: float
    operations: int
    """Floating point operations of a forward pass."""
    pairs: int
    """Those of them that are attention or another product between two sets of tokens."""


def build(cfg: Config, name: str, side: int) -> tuple[Any, Any]:
    """The model, and a call of it that returns class tokens."""
    image = torch.randn(cfg.batch, 3, side, side)
    if name == cfg.vit:
        vit = timm.create_model(name, img_size=side, num_classes=0)
        return vit, lambda: vit(image)
    tokens = (side // PATCH) ** 2
    sizes = (tokens, *(tokens * 5 // 16 // 2**step for step in range(3)))
    model: Any = castssl.create(override(find_config(name), image_size=side, sizes=sizes))
    at = torch.arange(side) // PATCH
    view = castssl.View(image, (at[:, None] * (side // PATCH) + at).int().repeat(cfg.batch, 1, 1))
    return model, lambda: model(view).stages[-1].cls


def memory(device: str) -> float:
    """MB at most, until now."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")  # of this program; what getrusage knows begins with that of its parent
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def seconds(run: Callable[[], object], cfg: Config) -> float:
    """Of a run, the median."""
    gpu = cfg.device == "cuda"
    clock: Callable[[], float] = time.perf_counter if gpu else time.process_time
    settle: Callable[[], object] = torch.cuda.synchronize if gpu else int
    took = []
    for _ in range(cfg.rounds):
        settle()
        began = clock()
        run()
        settle()
        took.append(clock() - began)
    return median(took)


def measure(cfg: Config, name: str, side: int) -> Cost:
    """In a process of its own."""
    torch.set_num_threads(cfg.threads)
    torch.set_default_device(check_device(cfg.device))
    torch.manual_seed(0)
    model, call = build(cfg, name, side)
    model.eval()
    with torch.no_grad():
        call()
        forward = seconds(call, cfg)
    peak = memory(cfg.device)
    with FlopCounterMode(display=False) as counter:
        call()
    model.train()

    def both() -> None:
        call().square().mean().backward()
        model.zero_grad()

    operations: dict[Any, int] = counter.get_flop_counts()["Global"]
    pairs = sum(count for kind, count in operations.items() if "attention" in str(kind) or "bmm" in str(kind))
    whole = counter.get_total_flops()
    return Cost(forward, peak, seconds(both, cfg), memory(cfg.device), whole, pairs)


def sampling(cfg: Config, side: int) -> tuple[float, float]:
    """Seconds of farthest point sampling by a matrix of distances and by rows, on a CPU in blocks."""
    torch.set_num_threads(cfg.threads)
    torch.set_default_device(check_device(cfg.device))
    tokens = (side // PATCH) ** 2
    x, valid = torch.randn(cfg.batch, tokens, 384), torch.ones(cfg.batch, tokens, dtype=torch.bool)
    k = tokens * 5 // 16
    ways: list[Callable[[], object]] = [partial(by_matrix, x, valid, k), partial(by_rows, x, valid, k)]
    if cfg.device == "cpu":
        ways[1] = lambda: [by_blocks(*image, k) for image in zip(x, valid, strict=True)]
    for way in ways:
        way()
    took = [[seconds(way, cfg) for way in ways] for _ in range(3)]
    matrix, rows = (median(each) for each in zip(*took, strict=True))
    return matrix, rows


def main(cfg: Config) -> None:
    """Print the table."""
    check_least(cfg, rounds=1, sides=4 * PATCH, batch=1, threads=1)
    for side in cfg.sides:
        if side % (4 * PATCH):
            raise ConfigError(f"--sides: got {side}, expected multiples of {4 * PATCH}")
    names = (cfg.vit, cfg.model)
    cells = [(cfg, name, side) for side, name in product(cfg.sides, names)]
    with multiprocessing.get_context(START).Pool(1, maxtasksperchild=1) as pool:
        found = pool.starmap(measure, cells, 1)
        sampled = pool.starmap(sampling, [(cfg, side) for side in cfg.sides], 1)
    costs = {(name, side): cost for (_, name, side), cost in zip(cells, found, strict=True)}
    heads = "pixels", "tokens", "model", "GFLOP", "of pairs", "forward", "", "MB", "+ backward", "", "MB"
    caption = f"ms per image and ratio to {cfg.vit}; batches of {cfg.batch}, {cfg.rounds} rounds"
    table = Table(*heads, title=machine(cfg.device), caption=caption)
    for (name, side), cost in costs.items():
        base = costs[cfg.vit, side]
        row = [str(side), f"{(side // PATCH) ** 2:,}", name.removesuffix("_patch16_224")]
        row += [f"{cost.operations / cfg.batch / 1e9:.0f}", f"{cost.pairs / cost.operations:.0%}"]
        for took, first, most in (
            (cost.forward, base.forward, cost.forward_memory),
            (cost.backward, base.backward, cost.backward_memory),
        ):
            row += [f"{1e3 * took / cfg.batch:.0f}", f"{took / first:.2f}", f"{most:.0f}"]
        table.add_row(*row, end_section=name == cfg.model)
    console = Console(width=110)
    console.print(table)
    for side, (matrix, rows) in zip(cfg.sides, sampled, strict=True):
        tokens = (side // PATCH) ** 2
        console.print(
            f"farthest point sampling, {tokens * 5 // 16:,} of {tokens:,} tokens:"
            f" {1e3 * matrix / cfg.batch:.0f} ms by a matrix, {1e3 * rows / cfg.batch:.0f} ms by rows,"
            f" ratio {rows / matrix:.2f}"
        )


if __name__ == "__main__":
    launch(main, Config)
