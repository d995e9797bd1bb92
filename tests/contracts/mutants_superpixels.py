"""Seeded faults of superpixels, each with the check that must catch it and words of its message."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from castssl.testing import superpixels as room
from castssl.testing.claims import Check, Subject
from tests.contracts.healthy import Bands


class NoSuperpixels:
    runs_on = "worker"


class RunsNowhere(Bands):
    runs_on = cast(Literal["worker", "device"], "cpu")


class CapacityLearns(Bands):
    seen = 32

    def capacity(self, height: int, width: int) -> int:
        return self.seen

    def __call__(self, images: Tensor) -> Tensor:
        labels = super().__call__(images)
        self.seen = int(labels.max()) + 1
        return labels


class Long(Bands):
    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images).long()


class CountsFromOne(Bands):
    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images) + 1

    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        return np.full(image.shape[:2], self.count - 1)


class Transposed(Bands):
    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images).transpose(1, 2).contiguous()


class StretchesContrast(Bands):
    """Divides by a range that is 0 in an image of one color."""

    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        bright = image.mean(-1)
        with np.errstate(all="ignore"):
            stretched = (bright - bright.min()) / (bright.max() - bright.min())
            labels: NDArray[np.int32] = (stretched * (self.count - 1)).astype(np.int32)
        return labels


class CountsOnSmoothImages(Bands):
    """One label more at each edge along a row, and few edges expected."""

    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        edges = np.abs(np.diff(image.mean(-1), axis=1, prepend=image[:, :1].mean(-1))) > 45
        found: NDArray[np.int64] = edges.cumsum(1)
        return found


class CountsOnSmallImages(Bands):
    """A label for each noisy cell of 64 pixels: too many of them from 512 pixels on."""

    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        y, x = (np.arange(side) // 64 for side in image.shape[:2])
        cells: NDArray[np.int64] = y[:, None] * (x[-1] + 1) + x
        return cells if image.std() > 70 else cells * 0


class CountsStripes(Bands):
    """One label more at each column that differs from the one before it in all its pixels."""

    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        bright = image.mean(-1)
        edges = np.abs(np.diff(bright, axis=1, prepend=bright[:, :1])).min(0) > 45
        return np.broadcast_to(edges.cumsum(), bright.shape)


class WarmStart(Bands):
    level = 0.0

    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        self.level = 0.5 * self.level + 0.5 * float(image.mean())
        shifted = (image.mean(-1) - self.level) // 16 + 16
        labels: NDArray[np.int32] = shifted.clip(0, self.count - 1).astype(np.int32)
        return labels


class KeepsFirstOfEachSize(Bands):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[int, ...], NDArray[Any]] = {}

    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        return self.kept.setdefault(image.shape, super().partition(image))


class NormalisesTheBatch(Bands):
    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__((images.float() / images.max().clamp(min=1) * 255).to(torch.uint8))


class WritesToInput(Bands):
    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images.bitwise_and_(0xF0))


class TakesAnything(Bands):
    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images.to(torch.uint8))


class MutteredRefusal(Bands):
    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise ValueError("wrong dtype")
        return super().__call__(images)


class HoldsLock(Bands):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class ForgetsOptions(Bands):
    def __init__(self, count: int = 16) -> None:
        super().__init__(count)

    def __reduce__(self) -> tuple[type[ForgetsOptions], tuple[()]]:
        return ForgetsOptions, ()


def forgets_options() -> Bands:
    return ForgetsOptions(32)


class StartsThreads(Bands):
    def __call__(self, images: Tensor) -> Tensor:
        pool = ThreadPoolExecutor(2)
        POOLS.append(pool)
        return pool.submit(super().__call__, images).result()


class OtherInWorker(Bands):
    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        return super().partition(image) // (1 if get_worker_info() is None else 2)


POOLS: list[ThreadPoolExecutor] = []
"""Keeps the threads alive."""
MUTANTS: list[tuple[Check, Subject, str]] = [
    (room.check_conforms, NoSuperpixels, "inherit from castssl.contracts.Superpixels"),
    (room.check_conforms, RunsNowhere, "runs_on"),
    (room.check_capacity_is_static, CapacityLearns, "capacity changed"),
    (room.check_partitions, Long, r"end with \.int\(\)"),
    (room.check_partitions, CountsFromOne, "raise capacity"),
    (room.check_partitions, Transposed, r"shape \(B, H, W\)"),
    (room.check_flat_images, StretchesContrast, "labels start at 0"),
    (room.check_noise, CountsOnSmoothImages, "raise capacity"),
    (room.check_noise, CountsOnSmallImages, r"capacity\(512, 512\)"),
    (room.check_stripes, CountsStripes, "raise capacity"),
    (room.check_remembers_nothing, WarmStart, "no state"),
    (room.check_remembers_nothing, KeepsFirstOfEachSize, "no state"),
    (room.check_batch_equals_singles, NormalisesTheBatch, "influence each other"),
    (room.check_leaves_input_alone, WritesToInput, "in place"),
    (room.check_refuses_wrong_input, TakesAnything, "raise ValueError"),
    (room.check_refuses_wrong_input, MutteredRefusal, "also name uint8 and float32"),
    (room.check_pickles, HoldsLock, "pickling fails"),
    (room.check_pickles, forgets_options, "pickle every option"),
    (room.check_runs_in_worker, StartsThreads, "threads were started"),
    (room.check_runs_in_worker, OtherInWorker, "other labels than the main process"),
]
