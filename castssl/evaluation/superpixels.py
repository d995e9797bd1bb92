"""Quality and speed of several superpixel backends on the same images, in turns.

The measures are those of :mod:`castssl.metrics.partition`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.errors import DataError
from castssl.metrics.partition import (
    achievable_accuracy,
    apart,
    boundary_recall,
    explained_variation,
    undersegmentation_error,
)
from castssl.metrics.regions import region_iou
from castssl.superpixel_labels import checked
from castssl.superpixels.merge import KINDS, merge

TRUTHS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "recall": boundary_recall,
    "undersegmentation": undersegmentation_error,
    "accuracy": achievable_accuracy,
}
"""The measures that need the true regions."""


MERGED = (32, 16, 8)
"""How many segments merging leaves."""


class Scores(NamedTuple):
    """Results of one backend, as means over the images."""

    milliseconds: float
    """For one image: the median of the rounds."""
    requested: int | None
    """The backend's ``count``; None if it has none."""
    capacity: int
    used: float
    """Labels that occur."""
    variation: float
    """Explained variation of RGB."""
    apart: float
    """Pixels outside of the largest connected part of their segment."""
    recall: float | None
    """Boundary recall within 2 pixels; like the next two None if no image has true regions."""
    undersegmentation: float | None
    accuracy: float | None
    """Achievable segmentation accuracy."""


class Trial(NamedTuple):
    """A backend's scores and labels, or why there are none."""

    name: str
    scores: Scores | None
    labels: Tensor | None
    """int32 (B, H, W), on the CPU."""
    fault: str = ""


def compare(
    backends: Mapping[str, Callable[[], Superpixels]],
    images: Tensor,
    truth: Sequence[Tensor | None],
    *,
    rounds: int = 5,
    device: torch.device | str = "cpu",
) -> list[Trial]:
    """Partition the same images with each backend, in turns; one that fails does not stop the others.

    Worker backends get one image at a time, on the CPU, as a loader's worker runs them; device backends the
    whole batch on ``device``.  On the CPU all use one thread, and seconds are that thread's own, so that what
    else runs on the machine counts little.  A first round does not count.

    Args:
        backends: a name to what builds it.
        images: uint8 (B, 3, H, W).
        truth: for each image integer (H, W) true regions, negative where unknown; or None.
        rounds: how often each is timed, at least 1.
        device: where device backends run.

    Raises:
        DataError: if there is no image, or not one truth (or None) for each.
    """
    if not len(images) or len(truth) != len(images) or rounds < 1:
        raise DataError(
            f"compare: expected at least one image, a truth or None for each, and a round, got {len(images)}"
            f" images, {len(truth)} truths and {rounds} rounds"
        )
    built: dict[str, Superpixels] = {}
    labels: dict[str, Tensor] = {}
    faults: dict[str, str] = {}
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    on_device = images.to(device)
    with _one_thread(device):
        for turn, (name, build) in (
            (turn, backend) for turn in range(1 + rounds) for backend in backends.items()
        ):
            if name in faults:
                continue
            try:
                if not turn:
                    built[name] = build()
                partition, took = _partition(built[name], images, on_device)
                if not turn:
                    labels[name] = checked(built[name], partition.cpu(), images)
            except Exception as fault:  # a plugin's code may raise anything
                faults[name] = f"{type(fault).__name__}: {fault}"
            else:
                seconds[name].append(took)
    return [
        Trial(name, None, None, faults[name])
        if name in faults
        else Trial(name, _score(built[name], labels[name], images, truth, seconds[name]), labels[name])
        for name in backends
    ]


def merged(labels: Tensor, images: Tensor, truth: Sequence[Tensor | None]) -> dict[str, list[float]]:
    """The region mIoU of superpixels merged without learning, by the kinds of :data:`KINDS`.

    Args:
        labels: int32 (B, H, W), the superpixels.
        images: uint8 (B, 3, H, W).
        truth: for each image integer (H, W) true regions, negative where unknown; or None.

    Returns:
        For each kind the mean over images with true regions, for each number of :data:`MERGED`.
    """
    labeled = [(i, true) for i, true in enumerate(truth) if true is not None]
    return {
        kind: torch.stack(
            [
                region_iou(merge(images[i], labels[i], MERGED, by=kind), true.expand(len(MERGED), -1, -1))
                for i, true in labeled
            ]
        )
        .nanmean(0)
        .tolist()
        for kind in KINDS
    }


def _partition(superpixels: Superpixels, images: Tensor, on_device: Tensor) -> tuple[Tensor, float]:
    """Labels and seconds."""
    cuda = superpixels.runs_on == "device" and on_device.is_cuda
    clock = time.perf_counter if cuda else time.thread_time
    if cuda:
        torch.cuda.synchronize(on_device.device)
    began = clock()
    with torch.no_grad():
        if superpixels.runs_on == "device":
            labels = superpixels(on_device)
        else:
            labels = torch.cat([superpixels(image[None]) for image in images])
    if cuda:
        torch.cuda.synchronize(on_device.device)
    return labels, clock() - began


def _score(
    superpixels: Superpixels,
    labels: Tensor,
    images: Tensor,
    truth: Sequence[Tensor | None],
    seconds: Sequence[float],
) -> Scores:
    pairs = [(one[None], true[None]) for one, true in zip(labels, truth, strict=True) if true is not None]
    scores = {
        name: sum(float(measure(*pair)) for pair in pairs) / len(pairs) if pairs else None
        for name, measure in TRUTHS.items()
    }
    return Scores(
        milliseconds=float(torch.tensor(seconds[1:]).median()) * 1e3 / len(images),
        requested=superpixels.count,
        capacity=superpixels.capacity(*images.shape[2:]),
        used=sum(len(torch.unique(one)) for one in labels) / len(labels),
        variation=float(explained_variation(labels, images).mean()),
        apart=float(apart(labels).mean()),
        **scores,
    )


@contextmanager
def _one_thread(device: torch.device | str) -> Iterator[None]:
    before = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
