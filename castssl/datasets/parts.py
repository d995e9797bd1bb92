"""Images whose objects and parts of objects have masks with names."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from castssl.errors import DataError

ClassMap = NDArray[np.int32]


class PartNames(NamedTuple):
    """The names of objects and of their parts.

    In class maps of objects 0 is the background and 1, 2, ... are the objects in this order.  In class maps
    of parts 0 is the background, and 1, 2, ... are the parts of the first object, then of the second, ...
    """

    objects: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    """Of each object, whole names such as "Bird Wing"; none if the parts are unknown."""

    def first_part(self, object_class: int) -> int:
        """The number of the first part of an object, 1, 2, ..."""
        return 1 + sum(len(names) for names in self.parts[: object_class - 1])

    @property
    def part_names(self) -> tuple[str, ...]:
        """All parts in the order of their numbers, the first is of number 1."""
        return tuple(name for names in self.parts for name in names)


class PartTruth(NamedTuple):
    """The objects and parts of an image; see :class:`PartNames` for the numbers."""

    objects: ClassMap
    """int32 (H, W), the class of the object at each pixel; 0 on the background, -1 where it is unknown."""
    parts: ClassMap
    """int32 (H, W), the class of the part; 0 on the background, -1 where it is unknown."""
    regions: ClassMap
    """int32 (H, W), the parts one by one, 1, 2, ..., so that two wings are two regions; 0 and less: none."""


class PartSet(Protocol):
    """Images with objects and parts; an image that cannot be used has a name and raises on reading."""

    names: PartNames
    size: int | None
    """Side in pixels of the center crop that published results are of; None: whole images."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The image's path below its split."""
        ...

    def read(self, index: int) -> tuple[Image.Image, PartTruth]:
        """The upright image in RGB, and its objects and parts at its own size.

        Raises:
            DataError: with the reason, if the image or its masks cannot be used.
        """
        ...


def check_truth(truth: PartTruth, names: PartNames) -> None:
    """Refuse class maps by which nothing can be measured.

    Raises:
        DataError: if no pixel of the objects is known, or of the parts where these have names, or a label is
            no class.
    """
    counts = {"object": len(names.objects), "part": len(names.part_names)}
    for (what, count), labels in zip(counts.items(), truth, strict=False):
        if not count:
            continue
        if labels.max() > count or labels.min() < -1:
            wrong = int(labels.max() if labels.max() > count else labels.min())
            raise DataError(f"a pixel has the {what} {wrong}, expected 0 to {count}, or -1 where unknown")
        if labels.max() < 0:
            raise DataError(f"the {what} of no pixel is known")
