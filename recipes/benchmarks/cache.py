"""What a superpixel cache saves on photographs of 500 x 375 pixels, and what it does to the kNN accuracy.

    python recipes/benchmarks/cache.py
    python recipes/benchmarks/cache.py --knn --runs 0 1 2

The first table is of the two-view input pipeline in one process: "first" fills an empty folder, "then" finds
everything there.  The second trains the demo with and without the cache, each time in a process of its own.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from castssl.config import check_least, launch
from castssl.contracts import Superpixels
from castssl.data.loader import load
from castssl.data.superpixel_cache import Cache
from castssl.data.views import TwoViews
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.devices import machine
from castssl.errors import ConfigError
from castssl.metrics.partition import explained_variation
from castssl.registry import build
from castssl.visualization.photographs import photographs

DEMO = """--data demo:surroundings=fixed --model nano --image-size 64 --crop-min 0.2 --blur 0.6
    --warmup-epochs 1 --batch-size 64 --lr 0.008 --momentum 0.95 --hidden 512 --out-dim 128
    --workers 1 --knn-every 100"""
"""A nano model, MoCo and the demo with fixed surroundings: three minutes per run."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure the input pipeline with and without a superpixel cache."""

    superpixels: tuple[str, ...] = ("seeds", "seeds:bins=5,iterations=8")
    """Backends to measure."""
    size: int = 224
    """Side of a view in pixels."""
    rounds: int = 8
    """How often the photographs are loaded; the median round counts, but the first if nothing is kept yet."""
    knn: bool = False
    """Train the demo, too."""
    epochs: int = 8
    """Epochs of the demo."""
    runs: tuple[int, ...] = (0, 1, 2)
    """Seeds of the demo."""


def photograph_images(root: Path) -> Images:
    """The photographs as a folder of JPEG files."""
    for name, photo in photographs():
        path = root / name / "0.jpg"
        path.parent.mkdir(parents=True)
        size = (500, 375) if photo.width >= photo.height else (375, 500)
        photo.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    images = open_images(f"folder:{root}")
    assert isinstance(images, Images)
    return images


def measure(
    cfg: Config, images: Images, superpixels: Superpixels | None, cache: Cache | None
) -> tuple[list[float], tuple[str, str]]:
    """Seconds of each round; superpixels per view, and the variation of its colors that they explain."""
    seconds, segments, explained, views = [], [], [], TwoViews(cfg.size)
    loader = load(images, views=views, superpixels=superpixels, batch_size=len(images), cache=cache)
    for epoch in range(cfg.rounds):
        loader.set_epoch(epoch)
        began = time.perf_counter()
        (batch,) = loader
        seconds.append(time.perf_counter() - began)
        for view in batch.views if superpixels else ():
            segments += [len(labels.unique()) for labels in view.segments]
            explained += explained_variation(view.segments, view.image).tolist()
    return seconds, (f"{mean(segments):.0f}", f"{mean(explained):.3f}") if segments else ("", "")


def pipeline(cfg: Config, folder: Path) -> Table:
    """Images a second of one process."""
    images = photograph_images(folder / "photographs")
    table = Table(title=machine(), caption=f"two views of {cfg.size} px, one process, median of {cfg.rounds}")
    for head in ("superpixels", "cache", "images/s", "ms/image", "kB/image", "per view", "explained"):
        table.add_column(head, justify="left" if head in ("superpixels", "cache") else "right")

    def row(name: str, cached: str, seconds: float, quality: tuple[str, str], kilobytes: str = "") -> None:
        per_image = seconds / len(images)
        table.add_row(name, cached, f"{1 / per_image:.1f}", f"{per_image * 1e3:.1f}", kilobytes, *quality)

    seconds, quality = measure(cfg, images, None, None)
    row("none", "", median(seconds), quality)
    for number, spec in enumerate(cfg.superpixels):
        superpixels, cache = build("superpixels", spec), Cache(folder / f"cache{number}")
        seconds, quality = measure(cfg, images, superpixels, None)
        row(spec, "none", median(seconds), quality)
        seconds, quality = measure(cfg, images, superpixels, cache)
        kilobytes = mean(path.stat().st_size / 1e3 for path in cache.folder.glob("*/*"))
        row("", "first", seconds[0], quality, f"{kilobytes:.1f}")
        row("", "then", median(seconds[1:]), quality)
    return table


def demo(cfg: Config, folder: Path) -> Table:
    """Metrics and speed of the demo, with and without."""
    table = Table(title=machine(), caption=f"the demo, {cfg.epochs} epochs, mean (each of seeds {cfg.runs})")
    for head in ("cache", "kNN %", "match %", "images/s", "waiting %"):
        table.add_column(head, justify="left" if head == "cache" else "right")
    for name, flags in (("none", []), ("shared", ["--superpixel-cache", str(folder / "demo")])):
        lines = [train(folder / f"{name}-{seed}", seed, cfg.epochs, flags) for seed in cfg.runs]
        cells = [[100 * line["knn"] for line in lines], [100 * line["match"] for line in lines]]
        cells += [[line["images_per_second"] for line in lines], [100 * line["waiting"] for line in lines]]
        table.add_row(name, *(f"{mean(c):.1f} ({' '.join(f'{one:.1f}' for one in c)})" for c in cells))
    return table


def train(out: Path, seed: int, epochs: int, flags: Sequence[str]) -> dict[str, float]:
    """A run of the demo: its last metrics, and its mean speed and share of waiting."""
    recipe = str(Path(__file__).parents[1] / "moco_in1k.py")
    args = [*shlex.split(DEMO), "--seed", str(seed), "--epochs", str(epochs), "--out", str(out), *flags]
    subprocess.run([sys.executable, recipe, *args], check=True, stdout=subprocess.DEVNULL)
    lines: list[dict[str, float]] = list(map(json.loads, (out / "log.jsonl").read_text().splitlines()))
    paces = [line for line in lines if "images_per_second" in line]
    return lines[-1] | {key: mean(pace[key] for pace in paces) for key in ("images_per_second", "waiting")}


def main(cfg: Config) -> None:
    """Print the tables."""
    if cfg.rounds < 2:
        raise ConfigError(f"--rounds: got {cfg.rounds}, expected 2 or more: the first one fills the cache")
    check_least(cfg, size=1, epochs=1, runs=0)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        console = Console(width=130)
        console.print(pipeline(cfg, Path(folder)))
        if cfg.knn:
            console.print(demo(cfg, Path(folder)))


if __name__ == "__main__":
    launch(main, Config)
