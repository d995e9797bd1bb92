"""The samples of a stream, for a loader: each process and worker reads its part in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import TypeVar

from torch.utils.data import IterableDataset, get_worker_info

from castssl.datasets.stream import Stream
from castssl.errors import ConfigError
from castssl.feed import Turn

S = TypeVar("S")


class Streamed(IterableDataset[S]):
    """One process's samples of a stream.

    Args:
        stream: the data set.
        turn: which items this process gets, and in which order.
        batch_size: images per step of this process.
        prepare: makes a sample of an image, its target, the faults met on the way, and numbers that give the
            seed of its views.

    Attributes:
        epoch: the number that the order depends on, see :meth:`set_epoch`; persistent workers share it.
    """

    def __init__(self, stream: Stream, turn: Turn, batch_size: int, prepare: Callable[..., S]) -> None:
        self.stream = stream
        self.turn = turn
        self.share = stream.share(turn, batch_size)
        self.prepare = prepare
        self.epoch = multiprocessing.Value("q", 0)

    def __len__(self) -> int:
        # In evaluation each process has its part of the shards, of which the sizes are not known.
        return self.share * self.turn.workers if self.turn.train else len(self.stream)

    def __iter__(self) -> Iterator[S]:
        worker = get_worker_info()
        turn = self.turn._replace(epoch=self.epoch.value, worker=worker.id if worker else 0)
        count = self.share if turn.train else None  # Processes train on as many batches as each other.
        for number, (image, target, faults) in enumerate(self.stream.read(turn, count)):
            yield self.prepare(image, target, faults, turn.epoch, turn.rank, turn.worker, number)

    def set_epoch(self, epoch: int, start: int) -> None:
        """Let the next iteration read epoch ``epoch``, whose first ``start`` batches are done."""
        # The second part of the epoch must not repeat the images of the first.
        self.epoch.value = epoch + (start << 20)


def share_of(batch_size: int, world: int, repeats: int) -> int:
    """The images per step of one of ``world`` processes.

    Raises:
        ConfigError: if they cannot share the batch, or images are to be repeated.
    """
    if repeats != 1:
        raise ConfigError(f"a stream cannot repeat its images {repeats} times; give --repeats 1")
    share, rest = divmod(batch_size, world)
    if share < 1 or rest:
        raise ConfigError(f"a batch of {batch_size} images cannot be shared by {world} processes")
    return share
