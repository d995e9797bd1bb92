"""Batches of raw views: decode, augment, superpixels, collate, in worker processes.

Every sample's randomness is a pure function of (seed, epoch, index), so a batch does not depend on the number
of workers or ranks, nor on what was loaded before; a run can go on from any step.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from copy import copy
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from castssl import ranks
from castssl.contracts import Superpixels, Turn, Unreadable
from castssl.data.inventory import Inventory, inventory
from castssl.data.rng import seeded
from castssl.data.sampler import EpochBatches, EpochSampler
from castssl.data.superpixel_cache import Cache, Cached, cached
from castssl.data.views import Augment, CroppedView
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.datasets.unreadable import Clipped, Ledger
from castssl.errors import ConfigError, ContractError, DataError
from castssl.output import outlive_readers
from castssl.superpixel_labels import partition
from castssl.types import Batch, LabelTree, View

__all__ = ["EpochBatches", "Loader", "load"]


class _Ready(NamedTuple):
    """One prepared sample."""

    views: list[tuple[Tensor, Tensor]]
    target: Tensor
    bad: tuple[Unreadable | Clipped, ...]


class _Sent(NamedTuple):
    """What a worker sends: a batch, and the unreadable images met on the way."""

    batch: Batch
    bad: list[Unreadable | Clipped]


class _Prepare:
    """A picture to raw views, the same for the same key."""

    def __init__(
        self, views: Augment, superpixels: Superpixels | None, seed: int, cached: Cached | None
    ) -> None:
        self.views = views
        self.cached = cached
        self.superpixels = superpixels if superpixels and superpixels.runs_on == "worker" else None
        self.seed = seed

    def __call__(self, image: Any, *key: int) -> list[tuple[Tensor, Tensor]]:
        with seeded(self.seed, *key):
            return self._segmented(self.views.crop(image))

    def indexed(self, images: Images, epoch: int, index: int) -> _Ready:
        """As a call with the image at ``index``, decoded no larger than the views' crops need it."""
        with seeded(self.seed, epoch, index):
            sample = images.fetch(index % len(images), self.views.plan)  # beyond are further copies
            placed = self.views.crop(sample.image, sample.plan)
            made = self.cached(images, sample.at, placed) if self.cached else self._segmented(placed)
            return _Ready(made, sample.target, (*sample.bad, *sample.clipped))

    def _segmented(self, placed: list[CroppedView]) -> list[tuple[Tensor, Tensor]]:
        if self.superpixels is None:
            return [(view.image, torch.empty((0, 0), dtype=torch.int32)) for view in placed]
        return [(view.image, partition(self.superpixels, view.image[None])[0]) for view in placed]


class _Indexed(Dataset[_Ready]):
    def __init__(self, images: Images, prepare: _Prepare) -> None:
        self.images = images
        self.prepare = prepare

    def __getitem__(self, key: tuple[int, int]) -> _Ready:
        epoch, index = key
        return self.prepare.indexed(self.images, epoch, index)


class _Streamed(IterableDataset[_Ready]):
    def __init__(self, stream: Stream, turn: Turn, batch_size: int, prepare: _Prepare) -> None:
        self.stream = stream
        self.turn = turn
        self.share = stream.share(turn, batch_size)
        self.prepare = prepare
        self.epoch = multiprocessing.Value("q", 0)  # shared with workers that live on

    def __len__(self) -> int:
        # in evaluation each process has its part of the shards, of which the sizes are not known
        return self.share * self.turn.workers if self.turn.train else len(self.stream)

    def __iter__(self) -> Iterator[_Ready]:
        worker = get_worker_info()
        turn = self.turn._replace(epoch=self.epoch.value, worker=worker.id if worker else 0)
        count = self.share if turn.train else None  # processes train on as many batches as each other
        for number, (image, target, bad) in enumerate(self.stream.read(turn, count)):
            views = self.prepare(image, turn.epoch, turn.rank, turn.worker, number)
            yield _Ready(views, target, bad)


class Loader:
    """Iterates over one epoch's batches of raw views on this rank; see :func:`load`.

    It already knows its rank, so it needs no ``accelerator.prepare``, which hands it through unchanged.
    """

    batches: EpochBatches | None
    """Which images come when, on this rank; None for a stream."""
    bad: Ledger
    """The unreadable images of this data set met so far; other pictures took their places."""
    waited: float
    """Seconds that the consumer has waited for batches so far; it never falls."""

    def __init__(
        self, loader: DataLoader[_Ready], batches: EpochBatches | None, source: Images | Stream
    ) -> None:
        self._loader = loader
        self._source = source
        self._start = 0
        self.batches = batches
        self.bad = source.bad
        self.waited = 0.0

    @property
    def tree(self) -> LabelTree:
        """The label levels of the data."""
        return self._source.tree

    @property
    def images(self) -> int:
        """How many images the data set has."""
        return len(self._source)

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
        # the epoch begun anew must not repeat the images that it began with
        dataset.epoch.value = epoch + (start << 20)

    def names(self, epoch: int, batch: int) -> list[str]:
        """What the images of a batch on this rank are called; empty for a stream, which does not know.

        An unreadable image is among them; the one that took its place is not.
        """
        if self.batches is None or not isinstance(self._source, Images):
            return []
        batches = copy(self.batches)
        batches.epoch, batches.start = epoch, batch
        return [self._source.name(index % self.images) for index in next(iter(batches), [])]

    def inventory(self) -> Inventory:
        """Which images there are: see :mod:`castssl.data.inventory`."""
        return inventory(self._source)

    def __iter__(self) -> Iterator[Batch]:
        """Batches whose views hold uint8 (B, 3, H, W) and int32 (B, H, W), or (B, 0, 0) segments.

        Raises:
            ContractError: if superpixels return labels out of range.
            DataError: if too many images in a row cannot be read, or a stream breaks.
        """
        began = time.perf_counter()
        # a stream knows its length only roughly, so nothing is cut off without need
        stop = len(self) - self._start if self._start and self.batches is None else None
        for sent in _plainly(islice(self._loader, stop)):
            self.bad.note(sent.bad)
            self.waited += time.perf_counter() - began
            yield sent.batch
            began = time.perf_counter()


def load(
    images: Images | Stream,
    *,
    views: Augment,
    superpixels: Superpixels | None,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    train: bool = True,
    repeats: int = 1,
    cache: Cache | None = None,
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
        repeats: see :class:`castssl.data.sampler.EpochBatches`; not for a stream.
        cache: compute each picture's superpixels once, see :func:`castssl.data.superpixel_cache.cached`.
        rank: this process; by default what :mod:`castssl.ranks` says.
        world: the number of processes; likewise.

    Raises:
        ConfigError: if the ranks cannot share the batch, there are fewer images than it holds, a stream
            shall repeat its images, or the cache does not fit the rest.
        DataError: if a stream has too few shards.
    """
    rank = ranks.rank() if rank is None else rank
    world = ranks.world() if world is None else world
    prepare = _Prepare(views, superpixels, seed, cached(cache, images, views, superpixels))
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
        if repeats != 1:
            raise ConfigError(f"a stream cannot repeat its images {repeats} times; give --repeats 1")
        turn = Turn(train, seed, epoch=0, rank=rank, world=world, workers=max(1, workers))
        return _load_stream(images, prepare, _share(batch_size, world), turn, options)
    order: dict[str, Any] = {"shuffle": train, "drop_last": train, "repeats": repeats}
    batches = EpochBatches(len(images), batch_size, seed=seed, rank=rank, world=world, **order)
    loader = DataLoader(_Indexed(images, prepare), batch_sampler=EpochSampler(batches), **options)
    return Loader(loader, batches, images)


def _load_stream(
    images: Stream, prepare: _Prepare, share: int, turn: Turn, options: dict[str, Any]
) -> Loader:
    streamed = _Streamed(images, turn, share, prepare)
    loader = DataLoader(streamed, batch_size=share, drop_last=turn.train, **options)
    return Loader(loader, None, images)


def _share(batch_size: int, world: int) -> int:
    if batch_size < 1 or batch_size % world:
        raise ConfigError(f"a batch of {batch_size} images cannot be shared by {world} processes")
    return batch_size // world


def _collate(samples: list[_Ready]) -> _Sent:
    views = [View(*default_collate(list(view))) for view in zip(*(s.views for s in samples), strict=True)]
    target = default_collate([sample.target for sample in samples])
    return _Sent(Batch(views, target), [bad for sample in samples for bad in sample.bad])


def _plainly(batches: Iterable[_Sent]) -> Iterator[_Sent]:
    """The same, but a worker's own errors without the traceback that torch writes into their message."""
    try:
        yield from batches
    except (ContractError, DataError) as error:
        kind = ContractError if isinstance(error, ContractError) else DataError
        raise kind(str(error).rpartition(f"errors.{kind.__name__}: ")[2].strip()) from None


def _calm(worker: int) -> None:
    """One thread per worker, no chat about odd files, and Ctrl-C left to the main process."""
    outlive_readers()
    # A spawned worker, unlike others, ends its interpreter, while the thread that sends batches may still be
    # in native code: that aborts the worker, and the run with it.
    atexit.register(os._exit, 0)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(0)
