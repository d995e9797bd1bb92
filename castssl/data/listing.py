"""What a reader knows of a split before any picture is opened, and how a subset of its classes is kept."""

from __future__ import annotations

from pathlib import Path
from typing import IO, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from castssl.data import trees
from castssl.data.text import read_text
from castssl.errors import DataError
from castssl.types import LabelTree


class Source(Protocol):
    """Encoded images by row."""

    def open(self, row: int) -> IO[bytes]:
        """An open file."""
        ...

    def name(self, row: int) -> str:
        """What to call the image, and its path below the split if it is a file."""
        ...

    def place(self, row: int) -> str:
        """Where the user finds the image, for messages."""
        ...


class Listing(NamedTuple):
    """One split of a data set."""

    source: Source
    rows: NDArray[np.int64]
    """int64 (n,): the rows of ``source`` that belong to it."""
    targets: Tensor
    """int64 (n, L), -1 where unknown."""
    tree: LabelTree
    masks: Path | None = None
    """A folder of object masks."""
    left_out: tuple[str, ...] = ()
    """Sentences about files and folders that are no part of it."""


class Subset(NamedTuple):
    """Some of the classes."""

    name: str
    classes: frozenset[str]


def listing(
    source: Source,
    targets: Tensor,
    tree: LabelTree,
    *,
    masks: Path | None = None,
    left_out: tuple[str, ...] = (),
) -> Listing:
    """All images of ``source``, which have these targets (n, L)."""
    return Listing(source, np.arange(len(targets), dtype=np.int64), targets, tree, masks, left_out)


def read_subset(subset: str) -> Subset:
    """The classes of a subset that castssl ships, or of a text file.

    Raises:
        DataError: if there is no such subset or file, or it is empty.
    """
    shipped = Path(__file__).with_name("subsets")
    path = shipped / f"{subset}.txt"
    if not path.is_file():
        path = Path(subset).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in shipped.glob("*.txt")))
        raise DataError(f"there is no subset {subset!r}: expected {known}, or a text file of class names")
    lines = (line.split("#")[0].strip() for line in read_text(path).splitlines())
    names = frozenset(line for line in lines if line)
    if not names:
        raise DataError(f"subset file {path} names no class; write one class name a line")
    return Subset(subset, names)


def narrow(found: Listing, subset: Subset) -> Listing:
    """The images whose finest class the subset names, and the tree of these classes, numbered anew.

    Raises:
        DataError: if the data lacks such a class, or the split has no image of any.
    """
    names = found.tree.names[-1] if found.tree.names else ()
    labels = found.targets
    if not names:
        raise DataError(f"the data names no classes, so subset {subset.name} cannot be picked from it")
    missing = sorted(subset.classes - set(names))
    if missing:
        raise DataError(
            f"subset {subset.name} names {len(subset.classes)} classes, {len(missing)} of which the data"
            f" lacks: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; the finest class folders"
            " must be called like that"
        )
    kept = torch.tensor([name in subset.classes for name in names])
    classes = [torch.unique(column).tolist() for column in found.tree.paths()[kept].T]
    inside = (labels[:, -1] >= 0) & kept[labels[:, -1]]
    if not inside.any():
        raise DataError(f"no image of this split is in subset {subset.name}; check the split")
    targets = labels[inside]
    for level, chosen in enumerate(classes):
        numbers = torch.full((found.tree.sizes[level],), -1, dtype=torch.int64)
        numbers[torch.tensor(chosen)] = torch.arange(len(chosen))
        targets[:, level] = numbers[targets[:, level]]
    rows, tree = found.rows[inside.numpy()], trees.pick(found.tree, classes)
    return found._replace(rows=rows, targets=targets, tree=tree)
