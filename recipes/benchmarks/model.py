"""How fast the models are: ms per image beside timm's, and what share of the machine's arithmetic they use.

    python recipes/benchmarks/model.py --device cuda --batch 256 --rounds 20 --compile

Jobs take turns; the median round counts.  Forward is without gradient, in evaluation mode; with backward, in
training mode with its dropout.  Sampling is measured by itself, on random tokens, and without DGL, which the
released code has for it.  The last column is a share of the rate of square matrix products here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from statistics import median
from typing import Any, Literal, NamedTuple

import timm
import torch
from rich.console import Console
from rich.table import Table
from timm.layers import attention
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import castssl
from castssl.attention import Attention
from castssl.config import check_least, launch
from castssl.devices import check_device, machine
from castssl.pooling.centroids import farthest

MODES = {"forward": False, "+ backward": True}
VIT, SWIN = "timm:vit_small_patch16_224", "timm:swin_tiny_patch4_window7_224"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure models side by side."""

    models: tuple[str, ...] = (VIT, SWIN, "cast_small")
    """What to measure: names that castssl.create knows, and timm:NAME. Ratios are to the first."""
    batch: int = 16
    """Images of one pass."""
    rounds: int = 5
    """Rounds that count, after one that does not."""
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """Arithmetic (autocast)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What to measure on."""
    threads: int = torch.get_num_threads()
    """Threads of the CPU."""
    compile: bool = False
    """Measure each model after torch.compile, too; compiling takes minutes on a CPU."""
    float32_attention: bool = False
    """Compute the attention of timm's ViTs as castssl's models do, on a CPU always in float32."""
    where: bool = False
    """Print which operators take the time of the processor, too."""


KINDS = {
    "linear layers": ("addmm", "mm"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "convolutions": ("convolution", "_convolution"),
    "batched products": ("bmm", "baddbmm"),
    "norms": ("layer_norm", "batch_norm"),
    "GELU, ReLU": ("gelu", "relu", "threshold_backward"),
    "copies and casts": ("copy_", "cat", "gather", "index_select", "index_add_", "scatter"),
    "sums and products": ("add", "add_", "mul", "mul_", "sum", "sub", "div", "mean"),
}
"""Names of operators of torch after ``aten::``; one of more than seven letters may be a part of a name."""


class Job(NamedTuple):
    """One thing to measure; ``flops`` are the floating point operations of a run."""

    what: str
    mode: str
    precision: str
    run: Callable[[], object]
    flops: int = 0


def passes(cfg: Config, name: str) -> Iterator[Job]:
    """A model in all modes and precisions, and its sampling."""
    shown: Any = torch.randn(cfg.batch, 3, 224, 224)
    timms = name.startswith("timm:")
    model: Any = timm.create_model(name[5:], num_classes=0) if timms else castssl.create(name)
    for module in model.modules() if timms and cfg.float32_attention else ():
        if type(module) is attention.Attention:
            module.__class__ = Attention
    if not timms:
        cell = torch.arange(224) * (side := math.isqrt(model.sizes[0])) // 224
        shown = castssl.View(shown, (cell[:, None] * side + cell).int().repeat(cfg.batch, 1, 1))
        yield sampling(name, farthest, cfg.batch, list(pairwise(model.sizes[: model.stages_with_cls])))

    def run(call: Callable[..., Any], back: bool, half: bool, gradient: bool) -> None:
        model.train(back)
        with torch.set_grad_enabled(gradient), torch.autocast(cfg.device, torch.bfloat16, enabled=half):
            cls = call(shown) if timms else call(shown).stages[-1].cls
        if back:
            cls.float().square().mean().backward()
            model.zero_grad()

    for mode, back in MODES.items():
        with FlopCounterMode(display=False) as counter:
            run(model, back, half=False, gradient=True)
        for call, precision in product((model, torch.compile(model))[: 1 + cfg.compile], cfg.precisions):
            what, flops = name + " compiled" * (call is not model), counter.get_total_flops()
            yield Job(what, mode, precision, partial(run, call, back, precision == "bf16", back), flops)


def sampling(what: str, method: Callable[..., object], batch: int, steps: Sequence[tuple[int, int]]) -> Job:
    """Choose k of n random tokens of 384 numbers, for each step (n, k)."""
    tokens = [(torch.randn(batch, n, 384), torch.ones(batch, n, dtype=torch.bool), k) for n, k in steps]
    return Job(what, "sampling", "fp32", lambda: [method(*step) for step in tokens])


def one_by_one(x: Tensor, valid: Tensor, k: int) -> list[list[int]]:
    """Farthest point sampling, one image and one pick at a time; ``valid`` is taken for all true."""
    picks: list[list[int]] = [[] for _ in x]
    for points, chosen in zip(x, picks, strict=True):
        last, closest = points.mean(0), points.new_full(points.shape[:1], math.inf)
        while len(chosen) < k:
            closest = torch.minimum(closest, (points - last).square().sum(1))
            chosen.append(int(closest.argmax()))
            last = points[chosen[-1]]
    return picks


def measure(jobs: Sequence[Job], cfg: Config) -> dict[tuple[str, str, str], float]:
    """Seconds of each job, median over rounds."""
    settle = torch.cuda.synchronize if cfg.device == "cuda" else int
    seconds: dict[tuple[str, str, str], list[float]] = {job[:3]: [] for job in jobs}
    for _, job in product(range(1 + cfg.rounds), jobs):
        _ = job.mode == "sampling" and job.run()  # Within a model its tokens are in the cache: here, too.
        settle()
        began = time.perf_counter()
        job.run()
        settle()
        seconds[job[:3]].append(time.perf_counter() - began)
    return {key: median(values[1:]) for key, values in seconds.items()}


def where(job: Job, batch: int) -> dict[str, float]:
    """The milliseconds per image that each kind of operator takes by itself, by torch's profiler."""
    job.run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        job.run()
    took = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::")
        kinds = (
            kind
            for kind, names in KINDS.items()
            if name in names or any(n in name for n in names if len(n) > 7)
        )
        took[next(kinds, "other")] += event.self_cpu_time_total / batch / 1e3
    return took


def operators(jobs: Sequence[Job], cfg: Config) -> Iterator[Table]:
    """A table for each mode and precision, with a column for each model."""
    for mode in dict.fromkeys(job[1:3] for job in jobs):
        columns = {job.what: where(job, cfg.batch) for job in jobs if job[1:3] == mode}
        table = Table(" ".join(mode), *columns, title="ms/image of each kind of operator, one pass each")
        for kind in (*KINDS, "other"):
            table.add_row(kind, *(f"{took[kind]:.2f}" for took in columns.values()))
        table.add_row("all", *(f"{sum(took.values()):.2f}" for took in columns.values()))
        yield table


def main(cfg: Config) -> None:
    """Print the table."""
    check_least(cfg, rounds=1, models=1, precisions=1, batch=1, threads=1)
    torch.set_num_threads(cfg.threads)
    torch.set_default_device(check_device(cfg.device))
    jobs = [job for name in cfg.models for job in passes(cfg, name)]
    for what, method in (("64 of 196 tokens", farthest), ("the same, one by one", one_by_one)):
        jobs.append(sampling(what, method, cfg.batch, [(196, 64)]))
    side = 2048 if cfg.device == "cpu" else 8192
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        work = partial(torch.mm, *torch.randn(2, side, side).to(dtype))
        jobs.append(Job("matrices", f"{side} x {side}", name, work, 2 * side**3))
    took = measure(jobs, cfg)
    rate = {job.precision: job.flops / took[job[:3]] / 1e9 for job in jobs if job.what == "matrices"}
    heads = "model", "mode", "", "ms/image", "ratio", "sampling", "GFLOP/image", "GFLOP/s", "of matrices'"
    table = Table(*heads, title=machine(cfg.device), caption=f"batches of {cfg.batch}, {cfg.rounds} rounds")
    for job in jobs:
        seconds, base = took[job[:3]], took.get((cfg.models[0], *job[1:3]))
        chosen = took.get((job.what, "sampling", "fp32")) if job.flops else None
        cells = [f"{seconds / cfg.batch * 1e3:.2f}", f"{seconds / base:.2f}" if base else ""]
        cells += [f"{chosen / seconds:.1%}" if chosen else "", f"{job.flops / cfg.batch / 1e9:.2f}"]
        cells += [f"{(speed := job.flops / seconds / 1e9):.0f}", f"{speed / rate[job.precision]:.0%}"]
        table.add_row(*job[:3], *(cells if job.flops else cells[:2]))
    Console(width=130).print(
        table, *(operators([job for job in jobs if job.mode in MODES], cfg) if cfg.where else ())
    )


if __name__ == "__main__":
    launch(main, Config)
