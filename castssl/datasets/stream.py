"""What can only be read in order: :class:`Stream`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor

from castssl.contracts import Feed, Item, Turn, Unreadable
from castssl.datasets.decode import Decoded, header, hush, read
from castssl.datasets.depth import Range
from castssl.datasets.feed import class_number
from castssl.datasets.unreadable import TRIES, Clipped, Ledger, why
from castssl.errors import CastError, DataError
from castssl.types import LabelTree


class Stream:
    """A data set that can only be read in order: WebDataset shards, or streamed Hub and TFDS data.

    Shuffling is approximate (a buffer and the order of shards), ranks and workers share out the shards, and
    a run cannot resume exactly in the middle of an epoch: it goes on with a fresh shuffle.  ``bad`` holds the
    unreadable images and shards met so far, which are left out; in TFDS data the first one ends the stream.

    Args:
        feed: the items of a split.
        called: the data set, for messages.
        declared: the values of black and white in pictures of more than 8 bits; None if their files say.
    """

    def __init__(self, feed: Feed, called: str, declared: Range | None = None) -> None:
        self.called = called
        self.feed = feed
        self.tree = LabelTree.flat(self.feed.classes) if self.feed.classes else LabelTree.none()
        self.length = self.feed.length
        self.declared = declared
        self.bad = Ledger()

    def __len__(self) -> int:
        """How many images the split says that it has."""
        return self.length

    def share(self, turn: Turn, batch_size: int) -> int:
        """How many images a worker reads in an epoch: whole batches in training, as many in each worker.

        Raises:
            DataError: if a worker would get no shard to train on.
        """
        most = self.feed.workers(turn.world)
        if turn.train and most is not None and most < turn.workers:
            raise DataError(
                f"{self.called} has too few shards for {turn.world} processes of {turn.workers} workers: each"
                f" worker needs one, which is enough for {most} workers; use fewer or smaller shards"
            )
        share = math.ceil(self.length / (turn.world * turn.workers))
        return math.ceil(share / batch_size) * batch_size if turn.train else share

    def read(
        self, turn: Turn, count: int | None
    ) -> Iterator[tuple[Image.Image, Tensor, tuple[Unreadable | Clipped, ...]]]:
        """RGB pictures, their label paths int64 (L,), and what there is to say of each and those before it.

        Args:
            turn: which part of the stream.
            count: read so many, from the beginning again if there are fewer; by default each image once.

        Raises:
            DataError: if a hundred images in a row are unreadable, a label is no class of the data, the
                stream breaks, or it has no readable image.
        """
        hush()
        met: list[Unreadable] = []
        held: tuple[Image.Image, Tensor, tuple[Unreadable | Clipped, ...]] | None = None
        try:
            laps = self._laps(turn, met, repeat=count is not None)
            for name, decoded, target in itertools.islice(laps, count):
                if held:
                    yield held
                clipped = (Clipped(name, decoded.remark),) if decoded.remark else ()
                held = decoded.image, target, (*met, *clipped)
                met.clear()
        except CastError:
            raise
        except Exception as error:
            raise DataError(
                f"{self.called} cannot be read any further: {why(error)}; check the shards, the options and"
                " the connection"
            ) from error
        if held:
            yield (*held[:2], (*held[2], *met))
        elif met and turn.world * turn.workers == 1:
            raise DataError(f"{self.called} has no readable image: {met[-1].name} ({met[-1].reason})")
        elif met:  # other readers may have some
            self.bad.note(met)

    def _laps(
        self, turn: Turn, met: list[Unreadable], *, repeat: bool
    ) -> Iterator[tuple[str, Decoded, Tensor]]:
        for lap in itertools.count(turn.lap):
            empty = True
            for item in self.feed.items(turn._replace(lap=lap)):
                found = item if isinstance(item, Unreadable) else self._decoded(item)
                if isinstance(found, Unreadable):
                    self._miss(found, met)
                else:
                    empty = False
                    yield found
            if not repeat:
                return
            if empty:
                last = f": {met[-1].name} ({met[-1].reason})" if met else ""
                raise DataError(
                    f"{self.called} has no readable image for one of {turn.world * turn.workers} readers"
                    f"{last}; use fewer workers, or copy the shards anew"
                )

    def _decoded(self, item: Item) -> tuple[str, Decoded, Tensor] | Unreadable:
        target = [class_number(item.label, self.tree.sizes[0], item.name)] if self.tree.levels else []
        try:
            with item.open() as opened:
                image = opened if isinstance(opened, Image.Image) else header(opened, self.declared)
                decoded = read(image, declared=self.declared)
        except Exception as error:  # decoders raise almost anything on a broken file
            return Unreadable(item.name, why(error))
        return item.name, decoded, torch.tensor(target, dtype=torch.int64)

    def _miss(self, found: Unreadable, met: list[Unreadable]) -> None:
        met.append(found)
        if len(met) >= TRIES:
            raise DataError(
                f"{len(met)} images in a row of {self.called} cannot be read, the last is {found.name}"
                f" ({found.reason}); check the shards and the options"
            )
