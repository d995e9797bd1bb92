"""Batches of raw views: decode, augment, superpixels, collate, in worker processes.

Every sample's randomness is a pure function of (seed, epoch, index), so a batch does not depend on the number
of workers or ranks, nor on what was loaded before; a run can go on from any step.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate, get_worker_info

from castssl import ranks
from castssl.contracts import Superpixels
from castssl.data.augment import Augment
from castssl.data.batches import EpochBatches
from castssl.data.chance import forked
from castssl.data.decode import to_rgb
from castssl.data.images import Images
from castssl.data.readers import Stream
from castssl.errors import ConfigError
from castssl.types import Batch, LabelTree, View

__all__ = ["EpochBatches", "Loader", "load"]

_log = logging.getLogger(__name__)


class _Ready(NamedTuple):
    """One prepared sample."""

    views: list[tuple[Tensor, Tensor]]
    target: Tensor
    bad: tuple[str, ...]


class _Sent(NamedTuple):
    """What a worker sends: a batch, and the names of the unreadable files met on the way."""

    batch: Batch
    bad: list[str]


class _Prepare:
    """A picture to raw views, the same for the same key."""

    def __init__(self, views: Augment, superpixels: Superpixels | None, seed: int) -> None:
        self.views = views
        self.superpixels = superpixels if superpixels and superpixels.runs_on == "worker" else None
        self.seed = seed

    def __call__(self, image: Any, *key: int) -> list[tuple[Tensor, Tensor]]:
        with forked(self.seed, *key):
            return [(view, self._segments(view)) for view in self.views(image)]

    def _segments(self, view: Tensor) -> Tensor:
        if self.superpixels is None:
            return torch.empty((0, 0), dtype=torch.int32)
        return self.superpixels(view[None])[0]


class _Indexed(Dataset[_Ready]):
    def __init__(self, images: Images, prepare: _Prepare) -> None:
        self.images = images
        self.prepare = prepare

    def __getitem__(self, key: tuple[int, int]) -> _Ready:
        epoch, index = key
        sample = self.images.fetch(index)
        return _Ready(self.prepare(sample.image, epoch, index), sample.target, sample.bad)


class _Stamped(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): workers that live on cannot know the epoch otherwise."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.batches.epoch
        for batch in self.batches:
            yield [(epoch, index) for index in batch]


class _Streamed(IterableDataset[_Ready]):
    def __init__(self, stream: Stream, reader: Any, prepare: _Prepare) -> None:
        self.stream = stream
        self.reader = reader
        self.prepare = prepare
        self.epoch = multiprocessing.Value("q", 0)  # shared with workers that live on

    def __len__(self) -> int:
        return len(self.reader)

    def __iter__(self) -> Iterator[_Ready]:
        worker = get_worker_info()
        place = (self.reader.dist_rank, worker.id if worker else 0)
        for count, (image, label) in enumerate(self.reader):
            views = self.prepare(to_rgb(image), self.epoch.value, *place, count)
            yield _Ready(views, self.stream.target(label), ())


class Loader:
    """Iterates over one epoch's batches of raw views on this rank; see :func:`load`.

    It already knows its rank, so it needs no ``accelerator.prepare``, which hands it through unchanged.
    """

    batches: EpochBatches | None
    """Which images come when, on this rank; None for a stream."""
    bad: list[str]
    """Names of the unreadable files met so far; another picture took their place."""
    waited: float
    """Seconds that the consumer has waited for batches so far; it never falls."""

    def __init__(
        self, loader: DataLoader[_Ready], batches: EpochBatches | None, source: Images | Stream
    ) -> None:
        self._loader = loader
        self._source = source
        self._start = 0
        self.batches = batches
        self.bad = []
        self.waited = 0.0

    @property
    def tree(self) -> LabelTree:
        """The label levels of the data."""
        return self._source.tree

    @property
    def resumable(self) -> bool:
        """True if ``set_epoch(epoch, start)`` goes on exactly; False for a stream."""
        return self.batches is not None

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        return len(self._loader)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """What the next iteration yields: epoch ``epoch``, from batch ``start`` on.

        A stream cannot jump: it reads from its beginning, in another order than that of ``start=0``, and
        stops ``start`` batches early.
        """
        self._start = start
        if self.batches is not None:
            self.batches.epoch, self.batches.start = epoch, start
            return
        dataset = self._loader.dataset
        assert isinstance(dataset, _Streamed)
        if start:
            _log.warning("a stream cannot resume inside an epoch: it goes on with a fresh shuffle")
        # the epoch begun anew must not repeat the images that it began with
        dataset.epoch.value = epoch + (start << 20)
        dataset.reader.set_epoch(epoch + start)

    def __iter__(self) -> Iterator[Batch]:
        """Batches whose views hold uint8 (B, 3, H, W) and int32 (B, H, W), or (B, 0, 0) segments."""
        began = time.perf_counter()
        # a stream knows its length only roughly, so nothing is cut off without need
        stop = len(self) - self._start if self._start and self.batches is None else None
        for sent in islice(self._loader, stop):
            self._note(sent.bad)
            self.waited += time.perf_counter() - began
            yield sent.batch
            began = time.perf_counter()

    def _note(self, bad: Sequence[str]) -> None:
        for name in bad:
            if name not in self.bad:
                self.bad.append(name)
                _log.warning("cannot read the image %s: the next one took its place", name)


def load(
    images: Images | Stream,
    *,
    views: Augment,
    superpixels: Superpixels | None,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    train: bool = True,
    rank: int | None = None,
    world: int | None = None,
) -> Loader:
    """A loader of raw views.

    Args:
        images: what to load.
        views: how a picture becomes views.
        superpixels: run here, in the workers and after augmentation, if they run in workers; if they run
            on the device, or None, segments are (B, 0, 0).
        batch_size: images per step over *all* ranks; a multiple of their number.
        workers: processes per rank; 0 loads in this one.
        seed: decides order and augmentation.
        train: shuffle and leave out the last, incomplete batch; else all images once, in order.
        rank: this process; by default what :mod:`castssl.ranks` says.  A stream always goes by that.
        world: the number of processes; likewise.

    Raises:
        ConfigError: if the ranks cannot share the batch, or there are fewer images than it holds.
        DataError: if a stream has too few shards.
    """
    rank = ranks.rank() if rank is None else rank
    world = ranks.world() if world is None else world
    prepare = _Prepare(views, superpixels, seed)
    options: dict[str, Any] = {
        "num_workers": workers,
        "collate_fn": _collate,
        "worker_init_fn": _calm,
        "persistent_workers": workers > 0 and train,
        "pin_memory": torch.cuda.is_available(),
        # else the loader would draw from the global generator, and training depend on it
        "generator": torch.Generator().manual_seed(seed),
    }
    if isinstance(images, Stream):
        return _load_stream(images, prepare, _share(batch_size, world), train, options)
    batches = EpochBatches(
        len(images), batch_size, seed=seed, rank=rank, world=world, shuffle=train, drop_last=train
    )
    loader = DataLoader(_Indexed(images, prepare), batch_sampler=_Stamped(batches), **options)
    return Loader(loader, batches, images)


def _load_stream(
    images: Stream, prepare: _Prepare, share: int, train: bool, options: dict[str, Any]
) -> Loader:
    reader = images.reader(train=train, batch_size=share, seed=prepare.seed, workers=options["num_workers"])
    loader = DataLoader(_Streamed(images, reader, prepare), batch_size=share, drop_last=train, **options)
    return Loader(loader, None, images)


def _share(batch_size: int, world: int) -> int:
    if batch_size < 1 or batch_size % world:
        raise ConfigError(f"a batch of {batch_size} images cannot be shared by {world} processes")
    return batch_size // world


def _collate(samples: list[_Ready]) -> _Sent:
    views = [View(*default_collate(list(view))) for view in zip(*(s.views for s in samples), strict=True)]
    target = default_collate([sample.target for sample in samples])
    return _Sent(Batch(views, target), [name for sample in samples for name in sample.bad])


def _calm(worker: int) -> None:
    """One thread per worker, and Ctrl-C left to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(0)
