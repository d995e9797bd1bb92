"""Some of the classes of a data set, by name, and their images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from castssl.datasets import taxonomies
from castssl.datasets.left_out import some
from castssl.datasets.text import read_text
from castssl.errors import DataError
from castssl.labels import LabelTree


class Subset(NamedTuple):
    """Some of the classes."""

    name: str
    classes: frozenset[str]


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
        shipped_names = ", ".join(sorted(p.stem for p in shipped.glob("*.txt")))
        raise DataError(
            f"there is no subset {subset!r}: expected {shipped_names}, or a text file of class names"
        )
    names = frozenset(line.split("#")[0].strip() for line in read_text(path).splitlines()) - {""}
    if not names:
        raise DataError(f"subset file {path} names no class; write one class name per line")
    return Subset(subset, names)


def narrow(targets: Tensor, tree: LabelTree, subset: Subset) -> tuple[NDArray[np.int64], Tensor, LabelTree]:
    """The images whose finest class the subset names, and the tree of these classes, numbered anew.

    Args:
        targets: int64 (n, L).
        tree: of these targets.
        subset: the classes that are kept.

    Returns:
        The rows that are kept, int64 (m,), their targets int64 (m, L), and the tree.

    Raises:
        DataError: if the data lacks such a class, or the split has no image of any.
    """
    names = tree.names[-1] if tree.names else ()
    if not names:
        raise DataError(f"the data names no classes, so subset {subset.name} cannot be picked from it")
    missing = sorted(subset.classes - set(names))
    if missing:
        raise DataError(
            f"subset {subset.name} names {len(subset.classes)} classes, {len(missing)} of which the data"
            f" lacks: {some(missing)}; the finest class folders must have these names"
        )
    kept = torch.tensor([name in subset.classes for name in names])
    classes = [torch.unique(column).tolist() for column in tree.paths()[kept].T]
    inside = (targets[:, -1] >= 0) & kept[targets[:, -1]]
    if not inside.any():
        raise DataError(f"no image of this split is in subset {subset.name}; check the split")
    numbered = targets[inside]
    for level, chosen in enumerate(classes):
        numbers = torch.full((tree.sizes[level],), -1, dtype=torch.int64)
        numbers[torch.tensor(chosen)] = torch.arange(len(chosen))
        numbered[:, level] = numbers[numbered[:, level]]
    return np.flatnonzero(inside.numpy()), numbered, taxonomies.pick(tree, classes)
