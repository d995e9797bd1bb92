"""How fast boundary F-score and boundary IoU are, beside plain loops over classes and points.

    python recipes/benchmarks/boundary.py --side 1024

"naive" is the definition, one class and one boundary point (or one erosion) at a time.  The tests compare
castssl's metrics with it.  Each row is one image with a label at each pixel, as many true regions as given,
and a prediction whose boundaries are a few pixels off.  The last rows have a band without labels around each
region, as PASCAL VOC has; naive is not measured there.  Times are those of one thread of the CPU, so that
other work on the machine hardly matters.  The median round counts; naive runs once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from castssl.config import check_least, launch
from castssl.devices import machine
from castssl.metrics.boundary import count_bands, count_boundaries

Counts = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure the boundary metrics beside a naive implementation."""

    side: int = 512
    """Pixels of an image's side."""
    classes: int = 21
    """How many there are."""
    regions: tuple[int, ...] = (6, 60)
    """True regions of an image, one row each."""
    rounds: int = 20
    """How often castssl is measured."""


def naive_points(labels: NDArray[np.int64], label: int, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Boundary points of one class, or with -1 the changes of the label: (n, 2)."""
    if label < 0:
        corners = [labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]]
        some = np.min(corners, 0) < np.max(corners, 0)
    else:
        inside = (labels == label).astype(np.int64)
        four = inside[:-1, :-1] + inside[:-1, 1:] + inside[1:, :-1] + inside[1:, 1:]
        some = (four > 0) & (four < 4)
    return np.argwhere(some & all_four(known))


def all_four(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """At which corners all four pixels are known: bool (H - 1, W - 1)."""
    return known[:-1, :-1] & known[:-1, 1:] & known[1:, :-1] & known[1:, 1:]


def naive_near(points: NDArray[np.int64], others: NDArray[np.int64], radius: int) -> NDArray[np.bool_]:
    """Which points are within ``radius`` of one of ``others``: bool (n,)."""
    squares = (((others - point) ** 2).sum(1) for point in points)
    return np.array([(square <= radius**2).any() for square in squares], np.bool_)


def naive_boundaries(
    predicted: Tensor, truth: Tensor, classes: int, known: Tensor | None = None, radius: int | None = None
) -> Tensor:
    """As :func:`castssl.metrics.boundary.count_boundaries` of labels that are extended already."""
    ours, true = predicted.numpy(), truth.numpy()
    inside = np.ones(ours.shape, np.bool_) if known is None else known.numpy()
    reach = math.ceil(0.0075 * math.hypot(*ours.shape) - 1e-9) if radius is None else radius
    away = np.argwhere(~all_four(inside))
    counts = []
    for label in (*range(classes), -1):
        points = [naive_points(labels, label, inside) for labels in (ours, true)]
        row = []
        for these, others in (points, points[::-1]):
            counted = ~naive_near(these, away, reach)
            row += [int(counted.sum()), int((counted & naive_near(these, others, reach)).sum())]
        counts.append(row)
    return torch.tensor(counts)


def naive_bands(
    predicted: Tensor, truth: Tensor, classes: int, known: Tensor | None = None, distance: int | None = None
) -> Tensor:
    """As :func:`castssl.metrics.boundary.count_bands`, by erosion of each mask (Cheng et al.)."""
    ours, true = predicted.numpy(), truth.numpy()
    inside = np.ones(ours.shape, np.bool_) if known is None else known.numpy()
    width = max(round(0.02 * math.hypot(*ours.shape)), 1) if distance is None else distance
    counts = []
    for label in range(classes):
        bands = []
        for labels in (ours, true):
            mask = (labels == label) & inside
            # Pixels without a label do not erode: they are in the mask while it is eroded.
            eroded = np.pad((mask | ~inside).astype(np.uint8), 1)
            for _ in range(width):
                before = np.pad(eroded, 1, mode="edge")
                shifts = product(range(3), range(3))
                size = eroded.shape
                eroded = np.minimum.reduce([before[y : y + size[0], x : x + size[1]] for y, x in shifts])
            bands.append(mask & (eroded[1:-1, 1:-1] == 0))
        counts.append([int(bands[0].sum()), int(bands[1].sum()), int((bands[0] & bands[1]).sum())])
    return torch.tensor(counts)


def maps(cfg: Config, regions: int) -> tuple[Tensor, Tensor]:
    """A prediction and the truth: cells around random points, with wavy borders that differ a little."""
    draw = np.random.default_rng(0)
    centers, side = draw.uniform(0, cfg.side, (regions, 2)), cfg.side
    classes = draw.permutation(np.arange(regions) % cfg.classes)
    grid = np.indices((side, side)).transpose(1, 2, 0).astype(np.float32)

    def wave(where: NDArray[np.float32], width: float, strength: float) -> NDArray[np.float32]:
        noise = cv2.GaussianBlur(draw.normal(size=where.shape).astype(np.float32), (0, 0), width)
        return np.asarray(where + noise * np.float32(strength), np.float32)

    def paint(where: NDArray[np.float32]) -> Tensor:
        squares = [((where - center) ** 2).sum(2) for center in centers.astype(np.float32)]
        return torch.from_numpy(classes[np.stack(squares).argmin(0)])

    true = wave(grid, side / 64, side / 8)
    return paint(wave(true, side / 128, side / 8)), paint(true)


def with_band(truth: Tensor) -> Tensor:
    """The truth with 255 within 2 pixels of its boundaries."""
    values, window = truth.numpy().astype(np.uint8), np.ones((5, 5), np.uint8)
    edge = cv2.dilate(values, window) != cv2.erode(values, window)
    return truth.masked_fill(torch.from_numpy(edge), 255)


def measure(run: Callable[[], Tensor], rounds: int) -> tuple[float, Tensor]:
    """Milliseconds of the CPU, median over rounds, and the result."""
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        result = run()
        seconds.append(time.process_time() - began)
    return 1e3 * median(seconds), result


def main(cfg: Config) -> None:
    """Print the table."""
    check_least(cfg, rounds=1, side=8, classes=1, regions=1)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    heads = "metric", "regions", "naive, ms", "castssl, ms", "times as fast"
    caption = f"one image of {cfg.side} x {cfg.side}, {cfg.classes} classes, {cfg.rounds} rounds"
    table = Table(*heads, title=machine("cpu"), caption=caption, min_width=90)
    ways: dict[str, tuple[Counts, Counts]] = {
        "boundary F": (count_boundaries, naive_boundaries),
        "boundary IoU": (count_bands, naive_bands),
    }
    images = {regions: maps(cfg, regions) for regions in cfg.regions}
    for (name, (fast, naive)), (regions, pair) in product(ways.items(), images.items()):
        took, counts = measure(partial(fast, *pair, cfg.classes), cfg.rounds)
        slow, expected = measure(partial(naive, *pair, cfg.classes), 1)
        assert torch.equal(counts, expected), f"{name} and its naive implementation differ"
        table.add_row(name, str(regions), f"{slow:.0f}", f"{took:.1f}", f"{slow / took:.0f}")
    for (name, (fast, _)), (regions, (ours, true)) in product(ways.items(), images.items()):
        took, _counts = measure(partial(fast, ours, with_band(true), cfg.classes), cfg.rounds)
        table.add_row(name, f"{regions}, with bands", "", f"{took:.1f}", "")
    Console(width=100).print(table)


if __name__ == "__main__":
    launch(main, Config)
