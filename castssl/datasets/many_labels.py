"""Many labels per image: the multi-hot targets of a data set of target "multihot", and its label tree.

The contract of such a data set, in its :class:`castssl.contracts.Listing`:

- ``targets`` is float32 (n, C): 1 if the label is present in the image, 0 if it is absent, -1 if that is
  unknown.
- ``tree`` is not exclusive.  It has one level of C classes with their names; or several levels, whose columns
  stand side by side, coarse to fine, and C is the sum of the levels' classes.

An image's target reaches :attr:`castssl.types.Batch.target` as float32 (B, C).  A plain data set is::

    class Tags(DataSet):
        target = "multihot"

        def open(self, location: str, split: str) -> Listing:
            names = ("cat", "dog")
            targets = multi_hot([("cat",), ("cat", "dog")], names)
            return Listing(Files(Path(location), ["1.jpg", "2.jpg"]), targets, many_labels(names))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from castssl.errors import DataError
from castssl.labels import LabelTree

PRESENT, ABSENT, UNKNOWN = 1.0, 0.0, -1.0
"""The values of a multi-hot target."""


def many_labels(*levels: Sequence[str], parents: Sequence[Sequence[int]] = ()) -> LabelTree:
    """The label tree of images that carry many labels.

    Args:
        levels: the class names of each level, coarse to fine; one level for a plain list of classes.
        parents: for each level but the coarsest, the class in the level above of each class; () if the levels
            do not build on each other.

    Raises:
        DataError: if the parents do not fit the levels, or a level has a name twice.
    """
    for names in levels:
        if twice := sorted({name for name in names if list(names).count(name) > 1}):
            raise DataError(f"classes named twice in a level: {', '.join(twice[:5])}; they need to differ")
    if len(parents) not in (0, len(levels) - 1):
        raise DataError(
            f"{len(levels)} levels with {len(parents)} parent tables: expected none, or one for each level"
            " but the coarsest"
        )
    tables = tuple(tuple(table) for table in parents)
    return LabelTree(tuple(map(len, levels)), tables, tuple(map(tuple, levels)), exclusive=False)


def multi_hot(
    present: Sequence[Iterable[str]], names: Sequence[str], unknown: Sequence[Iterable[str]] = ()
) -> Tensor:
    """The multi-hot targets of one level, by class names: float32 (n, C) in {1, 0, -1}.

    Targets of several levels are put side by side with ``torch.cat(targets, dim=1)``, coarse to fine.

    Args:
        present: the labels of each image; () for an image without any.
        names: of the C classes.
        unknown: for each image the classes of which it is unknown whether they are present, such as those
            of objects that Pascal VOC marks as difficult; a class that is also present is present.

    Raises:
        DataError: if a label is not a class, or ``unknown`` is of another number of images.
    """
    if unknown and len(unknown) != len(present):
        raise DataError(f"unknown labels of {len(unknown)} images, but labels of {len(present)}")
    number = {name: column for column, name in enumerate(names)}
    targets = torch.zeros(len(present), len(names))
    for value, listed in ((UNKNOWN, unknown), (PRESENT, present)):
        cells = [(row, name) for row, labels in enumerate(listed) for name in labels]
        if strange := sorted({name for _, name in cells} - number.keys()):
            raise DataError(
                f"{len(strange)} labels are not classes: {', '.join(strange[:5])}; expected some of"
                f" {len(names)} classes such as {', '.join(names[:3])}"
            )
        if cells:
            targets[[row for row, _ in cells], [number[name] for _, name in cells]] = value
    return targets
