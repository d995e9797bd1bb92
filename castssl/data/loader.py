"""Batches of raw views: decode, augment, superpixels, collate, in worker processes.

Every sample's randomness is a pure function of (seed, epoch, index), so a batch does not depend on the number
of workers or ranks, nor on earlier batches; a run can continue from any step.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import islice
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from castssl import distributed
from castssl.contracts import Superpixels
from castssl.data.dense_views import DenseAugment
from castssl.data.inventory import Inventory, inventory
from castssl.data.rng import seeded
from castssl.data.sampler import EpochBatches, EpochSampler
from castssl.data.streamed import Streamed, share_of
from castssl.data.superpixel_cache import Cache, CachedSuperpixels, cached_superpixels
from castssl.data.views import Augment, CroppedView
from castssl.data.workers import check_sockets, start_worker
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.datasets.unreadable import Clipped
from castssl.errors import ContractError, DataError
from castssl.feed import Turn, Unreadable
from castssl.superpixel_labels import partition
from castssl.types import Batch, View

__all__ = ["EpochBatches", "Loader", "load"]

_Faults = Sequence[Unreadable | Clipped]


class _Sample(NamedTuple):
    """One prepared image: its views with their segments, its target, the faults met on the way, its text."""

    views: list[tuple[Tensor, Tensor]]
    target: Tensor
    faults: _Faults
    text: Tensor | None = None


class _Collated(NamedTuple):
    """A batch from a worker, and the faults of its samples."""

    batch: Batch
    faults: _Faults


class _Prepare:
    """An image to raw views, the same for the same key."""

    def __init__(
        self, views: Augment, superpixels: Superpixels | None, seed: int, cached: CachedSuperpixels | None
    ) -> None:
        self.views = views
        self.cached = cached
        self.superpixels = superpixels if superpixels and superpixels.runs_on == "worker" else None
        self.seed = seed

    def streamed(self, image: Any, target: Tensor, faults: _Faults, *key: int) -> _Sample:
        """The sample of an image of a stream."""
        with seeded(self.seed, *key):
            return _Sample(self._segment(self.views.crop(image)), target, faults)

    def indexed(self, images: Images, epoch: int, index: int) -> _Sample:
        """The sample of the image at ``index``, decoded no larger than the views' crops need it."""
        with seeded(self.seed, epoch, index):
            index %= len(images)  # Larger indices are further copies.
            if isinstance(self.views, DenseAugment):
                sample = images.fetch(index, labels=True)
                crop, target = self.views.crop_labels(sample.image, sample.labels)
                reduced = self._segment([self.views.reduced(crop)])
                return _Sample([(crop.image, segments) for _, segments in reduced], target, sample.bad)
            sample = images.fetch(index, self.views.plan)
            crops = self.views.crop(sample.image, sample.plan)
            views = self.cached(images, sample.position, crops) if self.cached else self._segment(crops)
            return _Sample(views, sample.target, sample.bad, sample.text)

    def _segment(self, crops: list[CroppedView]) -> list[tuple[Tensor, Tensor]]:
        if self.superpixels is None:
            return [(view.image, torch.empty((0, 0), dtype=torch.int32)) for view in crops]
        return [(view.image, partition(self.superpixels, view.image[None])[0]) for view in crops]


class _Indexed(Dataset[_Sample]):
    def __init__(self, images: Images, prepare: _Prepare) -> None:
        self.images = images
        self.prepare = prepare

    def __getitem__(self, key: tuple[int, int]) -> _Sample:
        return self.prepare.indexed(self.images, *key)


class Loader:
    """Iterates over one epoch's batches of raw views on this rank; see :func:`load`.

    It has its rank, so it needs no ``accelerator.prepare``, which returns it unchanged.

    Attributes:
        tree: the label levels of the data.
        images: the number of images of the data set.
        batches: which images are in which batch, on this rank; None for a stream.
        resumable: True if ``set_epoch(epoch, start)`` continues exactly; False for a stream.
        bad: the unreadable images of this data set so far; other images took their places.
        waited: seconds that the consumer has waited for batches so far; it never decreases.
    """

    def __init__(
        self, loader: DataLoader[_Sample], batches: EpochBatches | None, source: Images | Stream
    ) -> None:
        self._loader = loader
        self._source = source
        self._start = 0
        self.tree = source.tree
        self.images = len(source)
        self.batches = batches
        self.resumable = batches is not None
        self.bad = source.bad
        self.waited = 0.0
        if not _loaders:  # Not at import: a fork server's children begin without functions at exit.
            atexit.register(_end_workers)
        _loaders.add(self)

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        return len(self._loader)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Let the next iteration yield epoch ``epoch``, from batch ``start`` on.

        A stream has no random access: it reads from its beginning, in another order than that of
        ``start=0``, and stops ``start`` batches early.
        """
        self._start = start
        if self.batches is not None:
            self.batches.epoch, self.batches.start = epoch, start
            return
        dataset = self._loader.dataset
        assert isinstance(dataset, Streamed)
        dataset.set_epoch(epoch, start)

    def names(self, epoch: int, batch: int) -> list[str]:
        """The names of the images of a batch on this rank; empty for a stream, whose images have no index.

        An unreadable image is among them; its replacement is not.
        """
        if self.batches is None or not isinstance(self._source, Images):
            return []
        batches = copy(self.batches)
        batches.epoch, batches.start = epoch, batch
        return [self._source.name(index % self.images) for index in next(iter(batches), [])]

    def inventory(self) -> Inventory:
        """The images as counts and hashes, see :mod:`castssl.data.inventory`."""
        return inventory(self._source)

    def __iter__(self) -> Iterator[Batch]:
        """Batches whose views hold uint8 (B, 3, H, W) and int32 (B, H, W), or (B, 0, 0) segments.

        Raises:
            ContractError: if superpixels return labels out of range.
            DataError: if too many images in a row cannot be read, or a stream breaks.
        """
        began = time.perf_counter()
        # The length of a stream is approximate, so it is not limited without need.
        stop = len(self) - self._start if self._start and self.batches is None else None
        try:
            for collated in islice(self._loader, stop):
                self.bad.note(collated.faults)
                self.waited += time.perf_counter() - began
                yield collated.batch
                began = time.perf_counter()
        except (ContractError, DataError) as error:
            # Without the traceback that torch writes into the message of a worker's error.
            kind = ContractError if isinstance(error, ContractError) else DataError
            raise kind(str(error).rpartition(f"errors.{kind.__name__}: ")[2].strip()) from None


_loaders: WeakSet[Loader] = WeakSet()


def _end_workers() -> None:
    """End the workers that wait for the next epoch; a signal ends them later, and each leaves a folder."""
    for loader in list(_loaders):
        del loader._loader


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
        images: the data set.
        views: makes the views of an image.
        superpixels: if they run in workers, they run here after augmentation; if they run on the device, or
            are None, segments are (B, 0, 0).
        batch_size: images per step over *all* ranks; a multiple of their number.
        workers: processes per rank; 0 loads in this one.
        seed: decides order and augmentation.
        train: shuffle and leave out the last, incomplete batch; else all images once, in order.
        repeats: see :class:`castssl.data.sampler.EpochBatches`; not for a stream.
        cache: compute each image's superpixels once, see :mod:`castssl.data.superpixel_cache`.
        rank: this process; by default that of :mod:`castssl.distributed`.
        world: the number of processes; likewise.

    Raises:
        ConfigError: if the ranks cannot share the batch, there are fewer images than it holds, ``repeats`` is
            not 1 for a stream, the cache does not fit the rest, views of label maps do not fit the images, or
            the name of the folder of temporary files is too long for the sockets of the workers.
        DataError: if a stream has too few shards.
    """
    rank = distributed.rank() if rank is None else rank
    world = distributed.world() if world is None else world
    if workers:
        check_sockets()
    if isinstance(views, DenseAugment):
        views.check(images, batch_size // world)
    prepare = _Prepare(views, superpixels, seed, cached_superpixels(cache, images, views, superpixels))
    options: dict[str, Any] = {
        "num_workers": workers,
        "collate_fn": _collate,
        "worker_init_fn": start_worker,
        "persistent_workers": workers > 0 and train,
        "pin_memory": torch.cuda.is_available(),
        # Else the loader would draw from the global generator, and training would depend on it.
        "generator": torch.Generator().manual_seed(seed),
    }
    if isinstance(images, Images):
        order: dict[str, Any] = {"shuffle": train, "drop_last": train, "repeats": repeats}
        batches = EpochBatches(len(images), batch_size, seed=seed, rank=rank, world=world, **order)
        loader = DataLoader(_Indexed(images, prepare), batch_sampler=EpochSampler(batches), **options)
        return Loader(loader, batches, images)
    share = share_of(batch_size, world, repeats)
    turn = Turn(train, seed, epoch=0, rank=rank, world=world, workers=max(1, workers))
    streamed = Streamed(images, turn, share, prepare.streamed)
    return Loader(DataLoader(streamed, batch_size=share, drop_last=train, **options), None, images)


def _collate(samples: list[_Sample]) -> _Collated:
    views = [View(*default_collate(list(view))) for view in zip(*(s.views for s in samples), strict=True)]
    target = default_collate([sample.target for sample in samples])
    text = default_collate([sample.text for sample in samples]) if samples[0].text is not None else None
    return _Collated(Batch(views, target, text), [fault for sample in samples for fault in sample.faults])
