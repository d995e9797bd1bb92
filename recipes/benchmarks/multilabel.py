"""What label attention costs: parameters, multiply-adds and time of HSVLT beside its trunk and a plain head.

    python recipes/benchmarks/multilabel.py
    python recipes/benchmarks/multilabel.py --device cuda --batch 32 --rounds 20

HSVLT (https://arxiv.org/abs/2407.16244) claims fewer parameters and less computation than other methods; no
number of its own was found to compare with.  GFLOPs are billions of multiply-adds of matrix products and
convolutions for one image, as in the literature, counted on shapes alone.  Milliseconds are of a forward pass
without gradient, on a CPU of the processor, so that other work hardly matters: models take turns, and the
median round counts; with --rounds 0 nothing is computed.  "As released" has the released order of products,
which projects every token, and gives the same scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

import castssl
from castssl.config import check_least, launch
from castssl.devices import check_device, machine
from castssl_multilabel.interaction import LabelsToTokens
from castssl_multilabel.model import HSVLT, LabelModel, PlainHead

RELEASED = "HSVLT, as released"
HSVLTS: Mapping[str, Mapping[str, Any]] = {
    "HSVLT": {},
    RELEASED: {},
    "HSVLT after each stage": {"interact": "stage"},
    "HSVLT, standard attention": {"attention": "standard"},
    "HSVLT, no aggregation": {"aggregation": "none"},
    "HSVLT, Hamburger": {"aggregation": "hamburger"},
    "HSVLT, gated visual update": {"visual": "gated"},
}
"""Options of each row."""


class Projected(LabelsToTokens):
    """The released order of products, for one head and tokens without padding."""

    def forward(self, labels: Tensor, x: Tensor, mass: Tensor) -> Tensor:
        """As the base class has it."""
        query, key, value = (
            layer(found)[:, None] for layer, found in ((self.query, labels), (self.key, x), (self.value, x))
        )
        answer: Tensor = self.out(scaled_dot_product_attention(query, key, value)[:, 0])
        return answer


@dataclass(frozen=True, kw_only=True)
class Config:
    """Count and measure models that score many labels."""

    trunk: str = "timm-features:convnext_small"
    """An encoder of castssl that takes updates; HSVLT's is ConvNeXt-S."""
    image_size: int = 448
    """Pixels of a side."""
    labels: int = 80
    """How many; COCO has 80."""
    channels: int = 768
    """Of a label embedding; BERT has 768."""
    batch: int = 1
    """Images of one pass."""
    rounds: int = 3
    """Rounds that count, after one that does not; 0 to count multiply-adds alone."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What to measure on."""
    threads: int = 1
    """Threads of the CPU."""


def models(cfg: Config) -> dict[str, nn.Module]:
    """The trunk and the models on it, by name; they share the trunk."""
    trunk = castssl.create(cfg.trunk, image_size=cfg.image_size)
    found: dict[str, nn.Module] = {"trunk alone": trunk, "plain head": PlainHead(trunk, cfg.labels)}
    vectors = torch.zeros(cfg.labels, cfg.channels)
    found |= {name: HSVLT(trunk, vectors, **options) for name, options in HSVLTS.items()}
    for module in found[RELEASED].modules():
        if isinstance(module, LabelsToTokens):
            module.__class__ = Projected
    return found


def run(model: nn.Module, view: castssl.View) -> None:
    """A forward pass, to logits if the model has them."""
    _ = model.logits(view) if isinstance(model, LabelModel) else model(view)


def view(cfg: Config, device: str, batch: int) -> castssl.View:
    """Noise, and superpixels that are the cells of a grid of 16 x 16."""
    cell = torch.arange(cfg.image_size, device=device) * 16 // cfg.image_size
    segments = (cell[:, None] * 16 + cell).int().repeat(batch, 1, 1)
    return castssl.View(torch.randn(batch, 3, cfg.image_size, cfg.image_size, device=device), segments)


def count(cfg: Config) -> dict[str, tuple[int, int, int]]:
    """Parameters, those that are trained, and multiply-adds of an image."""
    with torch.device("meta"):
        built, shown = models(cfg), view(cfg, "meta", 1)
    found = {}
    for name, model in built.items():
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            run(model.eval(), shown)
        sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
        trained = sum(size for size, learns in sizes if learns)
        found[name] = sum(size for size, _ in sizes), trained, counter.get_total_flops() // 2
    return found


def measure(built: Mapping[str, nn.Module], cfg: Config) -> dict[str, float]:
    """Milliseconds of an image, median over rounds."""
    settle: Callable[[], Any] = torch.cuda.synchronize if cfg.device == "cuda" else int
    clock = time.perf_counter if cfg.device == "cuda" else time.process_time
    shown, seconds = view(cfg, cfg.device, cfg.batch), dict[str, list[float]]()
    for _, name in product(range(1 + cfg.rounds), built):
        settle()
        began = clock()
        with torch.no_grad():
            run(built[name].eval(), shown)
        settle()
        seconds.setdefault(name, []).append(clock() - began)
    return {name: median(values[1:]) / cfg.batch * 1e3 for name, values in seconds.items()}


def rows(cfg: Config, took: Mapping[str, float]) -> Sequence[Sequence[str]]:
    """The cells of the table."""
    counts = count(cfg)
    base = counts["trunk alone"][2]
    return [
        (
            name,
            f"{parameters:,}",
            f"{trained:,}",
            f"{macs / 1e9:.2f}",
            f"{macs / base:.2f}",
            f"{took[name]:.0f}" if name in took else "",
        )
        for name, (parameters, trained, macs) in counts.items()
    ]


def main(cfg: Config) -> None:
    """Print the table."""
    check_least(cfg, image_size=1, labels=1, channels=1, batch=1, rounds=0, threads=1)
    torch.set_num_threads(cfg.threads)
    device, took = check_device(cfg.device), dict[str, float]()
    if cfg.rounds:
        built = {name: model.to(device) for name, model in models(cfg).items()}
        took = measure(built, cfg)
    what = f"{cfg.trunk}, {cfg.image_size} x {cfg.image_size} pixels, {cfg.labels} labels of {cfg.channels}"
    caption = f"{what}; batches of {cfg.batch}, {cfg.rounds} rounds, {cfg.threads} threads"
    heads = "model", "parameters", "trained", "GFLOPs", "of the trunk's", "ms/image"
    table = Table(*heads, title=machine(cfg.device), caption=caption)
    for row in rows(cfg, took):
        table.add_row(*row)
    Console(width=130).print(table)


if __name__ == "__main__":
    launch(main, Config)
