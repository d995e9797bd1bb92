"""The contract of superpixels (:class:`castssl.contracts.Superpixels`) as checks.

Each check takes a registry spec or a factory ``factory() -> Superpixels`` and raises ContractError with what
the author should change.
"""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from castssl.contracts import Superpixels
from castssl.errors import ContractError
from castssl.testing.claims import Check, Subject, claim, claim_inherits, claim_refused, make
from castssl.testing.samples import pixels

SIZES = ((64, 64), (65, 81), (96, 64), (127, 93))
"""Height and width of the images that are tried: square, odd, tall, and odd and wide."""
FULL = ((224, 224), (512, 512))
"""Height and width of what models are trained on: there, a backend finds more in an image."""


def _make(subject: Subject) -> Superpixels:
    built: Superpixels = make("superpixels", subject)
    return built


def _claim_partition(superpixels: Superpixels, images: Tensor) -> Tensor:
    """The labels of ``images``, which are a partition as promised."""
    labels = superpixels(images)
    batch, _, height, width = images.shape
    claim(isinstance(labels, Tensor), f"return a tensor, not {type(labels).__name__}")
    claim(labels.dtype == torch.int32, f"return int32 labels, not {labels.dtype}: end with .int()")
    claim(
        labels.shape == (batch, height, width),
        f"return labels of shape (B, H, W) = {(batch, height, width)}, not {tuple(labels.shape)}",
    )
    claim(labels.device == images.device, f"return labels on {images.device}, where the images are")
    low, high = int(labels.min()), int(labels.max())
    bound = superpixels.capacity(height, width)
    claim(low >= 0, f"labels start at 0, got {low} for {height} x {width} pixels")
    claim(
        high < bound, f"labels stay below capacity({height}, {width}) = {bound}, got {high}: raise capacity"
    )
    return labels


def check_conforms(subject: Subject) -> None:
    """It is a Superpixels that declares where it runs."""
    superpixels = _make(subject)
    claim_inherits(superpixels, Superpixels)
    where = superpixels.runs_on
    claim(where in ("worker", "device"), f"set runs_on to 'worker' or 'device', got {where!r}")


def check_capacity_is_static(subject: Subject) -> None:
    """Capacity is a positive int that depends on the image size alone."""
    superpixels = _make(subject)
    before = [superpixels.capacity(*size) for size in SIZES]
    for size, bound in zip(SIZES, before, strict=True):
        claim(type(bound) is int and bound > 0, f"capacity{size} must be an int above 0, got {bound!r}")
    superpixels(pixels(1, *SIZES[0]))
    after = [superpixels.capacity(*size) for size in SIZES]
    claim(
        before == after,
        f"capacity changed from {before} to {after} after a call; it must not learn from data",
    )


def check_partitions(subject: Subject) -> None:
    """Labels are int32 (B, H, W) in [0, capacity), at square and odd image sizes."""
    superpixels = _make(subject)
    for seed, size in enumerate(SIZES):
        _claim_partition(superpixels, pixels(2, *size, seed=seed))


def check_flat_images(subject: Subject) -> None:
    """Images of one color are partitioned too, also at the sizes of training."""
    superpixels = _make(subject)
    for height, width in FULL:
        _claim_partition(superpixels, torch.full((1, 3, height, width), 128, dtype=torch.uint8))
    for value in (0, 128, 255):
        _claim_partition(superpixels, torch.full((1, 3, 64, 64), value, dtype=torch.uint8))


def check_noise(subject: Subject) -> None:
    """Pure noise stays below capacity, also at the sizes of training: images need not be smooth."""
    superpixels, draw = _make(subject), torch.Generator().manual_seed(0)
    for count, size in ((2, (96, 80)), *((1, size) for size in FULL)):
        noise = torch.randint(256, (count, 3, *size), generator=draw, dtype=torch.uint8)
        _claim_partition(superpixels, noise)


def check_stripes(subject: Subject) -> None:
    """Fine black and white stripes, each a region of its own, stay below capacity."""
    superpixels = _make(subject)
    for height, width in FULL:
        dark = (torch.arange(width) // 2 % 2).to(torch.uint8) * 255
        _claim_partition(superpixels, dark.expand(1, 3, height, width).contiguous())


def check_remembers_nothing(subject: Subject) -> None:
    """The labels of an image do not depend on what was partitioned before."""
    used = _make(subject)
    first, other_size, other_image = (pixels(1, *SIZES[at], seed=seed) for seed, at in enumerate((0, 1, 0)))
    before = used(first).clone()
    used(other_size)
    same = torch.equal(used(other_image), _make(subject)(other_image)) and torch.equal(used(first), before)
    claim(same, "an image gets other labels after another one: keep no state between calls, seed randomness")


def check_batch_equals_singles(subject: Subject) -> None:
    """An image gets the same labels alone and in a batch."""
    superpixels = _make(subject)
    images = pixels(3, *SIZES[1])
    singles = torch.cat([superpixels(image[None]) for image in images])
    claim(
        torch.equal(superpixels(images), singles), "images of a batch influence each other: treat each alone"
    )


def check_leaves_input_alone(subject: Subject) -> None:
    """The images are not written to."""
    images = pixels(2, *SIZES[0])
    before = images.clone()
    _make(subject)(images)
    claim(torch.equal(images, before), "the images were changed in place: work on a copy")


def check_refuses_wrong_input(subject: Subject) -> None:
    """Anything but uint8 (B, 3, H, W) is a ValueError that names what was got."""
    superpixels = _make(subject)
    images = pixels(2, 64, 48)
    claim_refused(lambda: superpixels(images.float() / 255), "float32 images", ("uint8", "float32"))
    claim_refused(lambda: superpixels(images[0]), "an image without batch dimension", ("3, 64, 48",))
    claim_refused(lambda: superpixels(images[:, :1]), "images of one channel", ("2, 1, 64, 48",))


def check_pickles(subject: Subject) -> None:
    """A pickled copy gives the same labels: it travels to data-loader workers."""
    superpixels = _make(subject)
    images = pixels(1, *SIZES[0])
    expected = superpixels(images)
    try:
        copy: Superpixels = pickle.loads(pickle.dumps(superpixels))
    except Exception as fault:
        raise ContractError(f"pickling fails: {fault}; make handles when called, not when built") from fault
    claim(torch.equal(copy(images), expected), "a pickled copy gives other labels: pickle every option")


class _InWorker(torch.utils.data.Dataset[tuple[Tensor, int, int]]):
    """Labels of one image, and how many threads its partition started."""

    def __init__(self, superpixels: Superpixels) -> None:
        self.superpixels = superpixels

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        images = pixels(1, 224, 224)
        before = _threads()
        labels = self.superpixels(images)
        return labels, before, _threads()


def _threads() -> int:
    """Threads of this process, native ones included where the system tells."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def check_runs_in_worker(subject: Subject) -> None:
    """A worker backend gives the same labels in a data-loader worker, and starts no thread there."""
    superpixels = _make(subject)
    if superpixels.runs_on != "worker":
        return
    start = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    loader = DataLoader(_InWorker(superpixels), batch_size=None, num_workers=1, multiprocessing_context=start)
    labels, before, after = next(iter(loader))
    same = torch.equal(labels, superpixels(pixels(1, 224, 224)))
    claim(same, "a worker process gives other labels than the main process: depend on the image alone")
    claim(
        after <= before,
        f"{after - before} threads were started: workers share the cores, switch the library's own off",
    )


checks: list[Check] = [
    check_conforms,
    check_capacity_is_static,
    check_partitions,
    check_flat_images,
    check_noise,
    check_stripes,
    check_remembers_nothing,
    check_batch_equals_singles,
    check_leaves_input_alone,
    check_refuses_wrong_input,
    check_pickles,
    check_runs_in_worker,
]
"""All checks of this room."""
