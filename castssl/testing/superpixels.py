"""The contract of superpixels (:class:`castssl.contracts.Superpixels`) as checks.

Each check takes a registry spec or a factory ``factory() -> Superpixels`` and raises ContractError with what
the author should change.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from castssl.contracts import Superpixels
from castssl.testing.claims import (
    Check,
    Subject,
    checks_of,
    claim,
    claim_inherits,
    claim_refused,
    in_worker,
    make,
    pickled,
)
from castssl.testing.samples import pixels

SIZES = ((64, 64), (65, 81), (96, 64), (127, 93))
"""Height and width of small images: square, odd, tall, and odd and wide."""
FULL = ((224, 224), (512, 512))
"""Height and width of images in training: there, a backend finds more segments."""


def _make(subject: Subject) -> Superpixels:
    built: Superpixels = make("superpixels", subject)
    claim_inherits(built, Superpixels)
    return built


def _claim_partitions(subject: Subject, batches: Iterable[Tensor]) -> None:
    """The labels of each batch of images are a partition, as promised."""
    superpixels = _make(subject)
    for images in batches:
        labels, shape = superpixels(images), (len(images), *images.shape[2:])
        claim(isinstance(labels, Tensor), f"return a tensor, not {type(labels).__name__}")
        claim(labels.dtype == torch.int32, f"return int32 labels, not {labels.dtype}: end with .int()")
        fault = f"return labels of shape (B, H, W) = {shape}, not {tuple(labels.shape)}"
        claim(labels.shape == shape, fault)
        claim(labels.device == images.device, f"return labels on {images.device}, where the images are")
        low, high, bound = int(labels.min()), int(labels.max()), superpixels.capacity(*shape[1:])
        claim(low >= 0, f"labels start at 0, got {low} for {shape[1]} x {shape[2]} pixels")
        fault = f"labels stay below capacity{shape[1:]} = {bound}, got {high}: raise capacity"
        claim(high < bound, fault)


def check_conforms(subject: Subject) -> None:
    """It is a Superpixels that declares where it runs."""
    where = _make(subject).runs_on
    claim(where in ("worker", "device"), f"set runs_on to 'worker' or 'device', got {where!r}")


def check_capacity_is_static(subject: Subject) -> None:
    """Capacity is a positive int that depends on the image size alone."""
    superpixels = _make(subject)
    before = [superpixels.capacity(*size) for size in SIZES]
    for size, bound in zip(SIZES, before, strict=True):
        claim(type(bound) is int and bound > 0, f"capacity{size} must be an int above 0, got {bound!r}")
    superpixels(pixels(1, *SIZES[0]))
    after = [superpixels.capacity(*size) for size in SIZES]
    claim(before == after, f"capacity changed from {before} to {after} after a call; it depends on the size")


def check_partitions(subject: Subject) -> None:
    """Labels are int32 (B, H, W) in [0, capacity), at square and odd image sizes."""
    _claim_partitions(subject, (pixels(2, *size, seed=seed) for seed, size in enumerate(SIZES)))


def check_flat_images(subject: Subject) -> None:
    """Images of one color are partitioned too, also at the sizes of training."""
    flat = [*((128, size) for size in FULL), *((value, (64, 64)) for value in (0, 128, 255))]
    _claim_partitions(subject, (torch.full((1, 3, *size), value, dtype=torch.uint8) for value, size in flat))


def check_noise(subject: Subject) -> None:
    """Pure noise stays below capacity, also at the sizes of training: images need not be smooth."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 96, 80), *((1, 3, *size) for size in FULL))
    noise = (torch.randint(256, shape, generator=draw, dtype=torch.uint8) for shape in shapes)
    _claim_partitions(subject, noise)


def check_stripes(subject: Subject) -> None:
    """Fine black and white stripes, each a region of its own, stay below capacity."""
    stripes = [(torch.arange(width) // 2 % 2).to(torch.uint8) * 255 for _, width in FULL]
    _claim_partitions(subject, (row.expand(1, 3, len(row), -1).contiguous() for row in stripes))


def check_remembers_nothing(subject: Subject) -> None:
    """The labels of an image do not depend on earlier calls."""
    used = _make(subject)
    first, other_size, other = (pixels(1, *SIZES[size], seed=seed) for seed, size in enumerate((0, 1, 0)))
    before = used(first).clone()
    used(other_size)
    same = torch.equal(used(other), _make(subject)(other)) and torch.equal(used(first), before)
    claim(same, "an image gets other labels after another one: keep no state between calls, seed randomness")


def check_batch_equals_singles(subject: Subject) -> None:
    """An image gets the same labels alone and in a batch."""
    superpixels, images = _make(subject), pixels(3, *SIZES[1])
    singles = torch.cat([superpixels(image[None]) for image in images])
    same = torch.equal(superpixels(images), singles)
    claim(same, "images of a batch influence each other: treat each alone")


def check_leaves_input_alone(subject: Subject) -> None:
    """The images are not written to."""
    images = pixels(2, *SIZES[0])
    before = images.clone()
    _make(subject)(images)
    claim(torch.equal(images, before), "the images were changed in place: work on a copy")


def check_refuses_wrong_input(subject: Subject) -> None:
    """Anything but uint8 (B, 3, H, W) is a ValueError that names what was got."""
    superpixels, images = _make(subject), pixels(2, 64, 48)
    claim_refused(lambda: superpixels(images.float() / 255), "float32 images", ("uint8", "float32"))
    claim_refused(lambda: superpixels(images[0]), "an image without batch dimension", ("3, 64, 48",))
    claim_refused(lambda: superpixels(images[:, :1]), "images of one channel", ("2, 1, 64, 48",))


def check_pickles(subject: Subject) -> None:
    """A pickled copy gives the same labels: it travels to data-loader workers."""
    superpixels, images = _make(subject), pixels(1, *SIZES[0])
    expected = superpixels(images)
    labels = pickled(superpixels, "make handles when called, not when built")(images)
    claim(torch.equal(labels, expected), "a pickled copy gives other labels: pickle every option")


class _InWorker(Dataset[tuple[Tensor, int]]):
    """Labels of one image, and the number of threads that their computation started."""

    def __init__(self, superpixels: Superpixels) -> None:
        self.superpixels = superpixels

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images, before = pixels(1, 224, 224), _threads()
        return self.superpixels(images), _threads() - before


def _threads() -> int:
    """Threads of this process, with native ones on Linux."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def check_runs_in_worker(subject: Subject) -> None:
    """A worker backend gives the same labels in a data-loader worker, and starts no thread there."""
    superpixels = _make(subject)
    if superpixels.runs_on != "worker":
        return
    labels, started = in_worker(_InWorker(superpixels))
    same = torch.equal(labels, superpixels(pixels(1, 224, 224)))
    claim(same, "a worker process gives other labels than the main process: depend on the image alone")
    claim(started <= 0, f"{started} threads were started: workers share the cores, switch the library's off")


checks: list[Check] = checks_of(globals())
"""All checks of superpixels."""
