"""The contract of data that can only be read in order, such as a stream: a feed of items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, NamedTuple, Protocol, runtime_checkable

from PIL import Image


class Unreadable(NamedTuple):
    """An image that could not be read."""

    name: str
    """Where it is: the path of a file, or what its source calls it."""
    reason: str
    """One line."""


class Item(NamedTuple):
    """One image of a stream."""

    name: str
    """Where it comes from, for messages."""
    open: Callable[[], IO[bytes] | Image.Image]
    """The encoded image, or a decoded one; raises almost anything if it is broken."""
    label: object
    """A class number as a number, text or bytes; None, NaN, "" or -1 if it is unknown."""


class Turn(NamedTuple):
    """Which items of a stream a reader gets, and in which order."""

    train: bool
    """Shuffled."""
    seed: int
    epoch: int
    lap: int = 0
    """How often the reader has read all of its items in this epoch."""
    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1


@runtime_checkable
class Feed(Protocol):
    """One split that can only be read in order.  It is pickled into data-loader workers."""

    classes: tuple[str, ...]
    """Names; () if the items have no labels."""
    length: int
    """How many items the split says that it has."""
    lost: list[Unreadable]
    """What was found to be unreadable when the items were counted."""

    def workers(self, world: int) -> int | None:
        """How many workers each of ``world`` processes can have items for; None if that is not limited."""
        ...

    def items(self, turn: Turn) -> Iterator[Item | Unreadable]:
        """The items of one reader, each once, and what cannot be read."""
        ...
