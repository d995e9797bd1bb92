"""How fast pictures become views with superpixels: images/s of one core, and how good the superpixels are.

    python recipes/benchmarks/input.py --data folder:/path/to/imagenet --images 64

The first row is the published pipeline: the whole picture decoded, torchvision's and PIL's augmentations, and
SEEDS of 15 bins and 20 sweeps made anew for each view.  The rows take turns at each picture; seconds are the
thread's own, so that what else runs on the machine counts as little as it can; the median round counts.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, resources
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
from lightly.transforms.gaussian_blur import GaussianBlur
from lightly.transforms.solarize import RandomSolarization
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision import transforms as T

from castssl import build
from castssl.config import check_least, launch
from castssl.data.evaluation_views import CenterView
from castssl.data.rng import seeded
from castssl.data.views import TwoViews
from castssl.datasets.decode import decode, header
from castssl.datasets.decode import read as read_opened
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.devices import machine
from castssl.metrics.partition import apart, boundary_recall, explained_variation
from castssl.visualization import photographs


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure the two-view input pipeline."""

    data: str = "photographs"
    """What to load: castssl's photographs and, if installed, scikit-image's larger ones, or a data spec."""
    images: int = 8
    """How many images of it."""
    masks: str = "demo:size=224,per_class=40,surroundings=fixed"
    """Images with object masks, on which the recall of boundaries is measured."""
    size: int = 224
    """Side of a view in pixels."""
    superpixels: tuple[str, ...] = ("seeds", "seeds-fast")
    """Backends that run in workers, with options."""
    rounds: int = 5
    """Rounds that count, after one that does not."""


class Row(NamedTuple):
    """A pipeline in three steps; the last also takes a uint8 (3, H, W) view."""

    name: str
    read: Callable[[bytes], Any]
    augment: Callable[[Any], list[Tensor]]
    partition: Callable[[Tensor], Tensor]


def published(size: int) -> Row:
    """The reference: plain libraries, nothing kept from one image to the next."""
    crop, flip = T.RandomResizedCrop(size, scale=(0.08, 1.0)), T.RandomHorizontalFlip()
    first = [T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8), T.RandomGrayscale(0.2)]
    last: Any = [[GaussianBlur(prob=1.0)], [GaussianBlur(prob=0.1), RandomSolarization(0.2, threshold=128)]]
    views = [T.Compose([crop, *first, *steps, flip, T.ToTensor()]) for steps in last]

    def partition(view: Tensor) -> Tensor:
        rgb = (view * 255 if view.is_floating_point() else view).byte().permute(1, 2, 0).numpy()
        engine = cv2.ximgproc.createSuperpixelSEEDS(rgb.shape[1], rgb.shape[0], 3, 196, 1, 2, 15)
        engine.iterate(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), 20)
        return torch.from_numpy(engine.getLabels())

    return Row(
        "published",
        lambda b: Image.open(io.BytesIO(b)).convert("RGB"),
        lambda i: [view(i) for view in views],
        partition,
    )


def castssl_row(size: int, spec: str) -> Row:
    """castssl's pipeline, as a loader's worker runs it."""
    backend, views = build("superpixels", spec), TwoViews(size)

    def read(encoded: bytes) -> Any:
        opened = header(io.BytesIO(encoded))
        plan = views.plan(*opened.size)
        return read_opened(opened, (opened.width // plan.shrink, opened.height // plan.shrink)).image, plan

    return Row(spec, read, lambda drawn: [v.image for v in views.crop(*drawn)], lambda v: backend(v[None])[0])


def files(cfg: Config) -> list[bytes]:
    """The encoded images."""
    if cfg.data != "photographs":
        opened: Any = open_images(cfg.data)
        return [opened.source.open(int(row)).read() for row in opened.rows[: cfg.images]]
    small = [resources.files(photographs).joinpath(f"{name}.jpg").read_bytes() for name in photographs.NAMES]
    large = [io.BytesIO() for _ in small if find_spec("skimage")]
    for name, file in zip(photographs.NAMES, large, strict=False):
        Image.fromarray(getattr(import_module("skimage.data"), name)()).save(file, "jpeg", quality=90)
    return [*(file.getvalue() for file in large), *small][: cfg.images]


def measure(rows: list[Row], encoded: list[bytes], rounds: int) -> Any:
    """(rows, 3): the milliseconds that decoding, augmentation and superpixels of an image take.

    A row takes all images in one block, so that the caches do not hold another row's data.
    """
    took = np.zeros((1 + rounds, len(rows), 3))
    for turn, index, file in product(range(1 + rounds), range(len(rows)), encoded):
        with seeded(turn, len(file)):
            times, content = [time.thread_time()], cast("Any", file)
            for step in (rows[index].read, rows[index].augment, rows[index].partition):
                content = [step(view) for view in content] if len(times) == 3 else step(content)
                times.append(time.thread_time())
            took[turn, index] += np.diff(times)
    return np.median(took[1:], 0) * 1e3 / len(encoded)


def main(cfg: Config) -> None:
    """Print the table."""
    check_least(cfg, rounds=1, images=1, size=1)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    rows = [published(cfg.size), *(castssl_row(cfg.size, spec) for spec in cfg.superpixels)]
    encoded, masked = files(cfg), cast("Images", open_images(cfg.masks, split="val"))
    pairs = [(masked[index][0], mask) for index in range(len(masked)) if (mask := masked.mask(index))]
    center, exact = CenterView(cfg.size), CenterView(cfg.size, interpolation="nearest")
    views = [center(decode(io.BytesIO(file)))[0] for file in encoded]
    objects = [(center(image)[0], exact(mask.convert("RGB"))[0][:1] > 127) for image, mask in pairs]
    columns = (
        "decode, ms",
        "augment",
        "superpixels",
        "images/s",
        "ratio",
        "explained variation",
        "apart",
        "recall",
    )
    table = Table("", *columns, title=f"{machine()}, OpenCV {cv2.__version__}, Pillow {version('pillow')}")
    table.caption = f"{len(encoded)} images of {cfg.data}, {cfg.rounds} rounds; views of {cfg.size} pixels"
    took = measure(rows, encoded, cfg.rounds)
    for row, steps in zip(rows, took, strict=True):
        labels = [row.partition(view)[None] for view in views]
        explained = [
            explained_variation(*pair) for pair in zip(labels, (v[None] for v in views), strict=True)
        ]
        recall = [boundary_recall(row.partition(view)[None], mask) for view, mask in objects]
        cells = [*(f"{step:.2f}" for step in steps), f"{1e3 / steps.sum():.1f}"]
        cells += [f"{took[0].sum() / steps.sum():.2f}", f"{torch.cat(explained).mean():.3f}"]
        cells += [
            f"{torch.cat([apart(one) for one in labels]).mean():.3f}",
            f"{torch.cat(recall).mean():.3f}",
        ]
        table.add_row(row.name, *cells)
    Console(width=130).print(table)


if __name__ == "__main__":
    launch(main, Config)
