"""PartImageNet, and data sets with masks of objects and parts: :func:`open_parts`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image

from castssl.datasets.coco_masks import Annotations
from castssl.datasets.decode import EXTENSIONS, Decoded, header, read
from castssl.datasets.demo.objects import PARTS
from castssl.datasets.depth import Range
from castssl.datasets.images import Images
from castssl.datasets.open import open_images, parse
from castssl.datasets.orientation import fitted
from castssl.datasets.parts import PartNames, PartSet, PartTruth
from castssl.datasets.regular import open_regular
from castssl.datasets.unreadable import why
from castssl.errors import DataError
from castssl.system_errors import explain

_PARTS = {
    "Quadruped": ("Head", "Body", "Foot", "Tail"),
    "Biped": ("Head", "Body", "Hand", "Foot", "Tail"),
    "Fish": ("Head", "Body", "Fin", "Tail"),
    "Bird": ("Head", "Body", "Wing", "Foot", "Tail"),
    "Snake": ("Head", "Body"),
    "Reptile": ("Head", "Body", "Foot", "Tail"),
    "Car": ("Body", "Tier", "Side Mirror"),
    "Bicycle": ("Body", "Head", "Seat", "Tier"),
    "Boat": ("Body", "Sail"),
    "Aeroplane": ("Head", "Body", "Engine", "Wing", "Tail"),
    "Bottle": ("Mouth", "Body"),
}
PARTIMAGENET = PartNames(
    tuple(_PARTS), tuple(tuple(f"{owner} {part}" for part in parts) for owner, parts in _PARTS.items())
)
"""The 11 objects and 40 parts of PartImageNet (https://arxiv.org/abs/2112.00933; CAST, table 8), in the order
of the ids in its files, which are also spelled "Tier"."""
ANIMALS = 6
"""The first six objects are animals, the others things (CAST, tables 8 and 9)."""


class PartImageNet(PartSet):
    """PartImageNet as published: ``images/{train,val,test}/`` and ``annotations/{train,val,test}.json``.

    An image's object is the union of its parts.  Where annotations overlap the smallest counts; the released
    code of CAST takes the last one.

    Args:
        root: the folder of ``images`` and ``annotations``.
        split: of the images, "train", "val" or "test".

    Raises:
        DataError: if the annotations are missing or broken, or of other parts than :data:`PARTIMAGENET`.
        PluginError: if they have compressed runs and faster-coco-eval is not installed.
    """

    names, size = PARTIMAGENET, 224

    def __init__(self, root: Path, split: str = "val") -> None:
        path = root / "annotations" / f"{split}.json"
        if not path.is_file():
            raise DataError(
                f"no annotations {path}; expected PartImageNet's folders annotations/{{train,val,test}}.json"
                " and images/{train,val,test}/ below the same folder"
            )
        self._folder, self._annotations = root / "images" / split, Annotations.read(path)
        numbers = {name: number for number, name in enumerate(self.names.part_names, start=1)}
        if other := [name for name in self._annotations.names if name not in numbers]:
            raise DataError(
                f"{path} has the part {other[0]!r}, which PartImageNet lacks; its parts are"
                f" {', '.join(numbers)}"
            )
        owners = [owner for owner, parts in enumerate(self.names.parts, start=1) for _ in parts]
        self._parts = np.array([0, *(numbers[name] for name in self._annotations.names)], np.int32)
        self._objects = np.array([0, *(owners[part - 1] for part in self._parts[1:])], np.int32)
        self._files = self._annotations.files
        paths = [path for path in sorted(self._folder.rglob("*")) if path.suffix.lower() in EXTENSIONS]
        self._found = [path.relative_to(self._folder).as_posix() for path in paths]
        self._names = {file: name for name, file in self._annotations.match(self._found).items()}

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """See :class:`castssl.datasets.parts.PartSet`."""
        return self._names.get(self._files[index], self._files[index])

    def read(self, index: int) -> tuple[Image.Image, PartTruth]:
        """See :class:`castssl.datasets.parts.PartSet`."""
        name = self._files[index]
        if name not in self._names:
            last = PurePosixPath(name).name
            alike = [found for found in self._found if PurePosixPath(found).name == last]
            found = f"{len(alike)} images {last}, such as {alike[0]}" if alike else f"no image {name}"
            raise DataError(
                f"{self._folder} has {found}, and no path that {name} in the annotations means alone; keep"
                " the annotated image, in a folder as in the annotations"
            )
        path = self._folder / self._names[name]
        decoded = _decoded(lambda: open_regular(path))
        parts, regions = np.zeros((2, *self._annotations.shape(name)), np.int32)
        for number, (part, inside) in enumerate(self._annotations.regions(name), start=1):
            parts[inside], regions[inside] = part, number
        upright = [
            fitted(Image.fromarray(labels), decoded.image.size, decoded.orientation)
            for labels in (self._objects[parts], self._parts[parts], regions)
        ]
        return decoded.image, PartTruth(*(np.array(labels) for labels in upright))


class MaskedParts(PartSet):
    """Images with masks of one object each, of their finest class, and of its parts, such as the demo data.

    Args:
        images: with masks.
        names: of the classes of their finest level, and of each one's parts; without any parts these are
            unknown.
    """

    size = None

    def __init__(self, images: Images, names: PartNames) -> None:
        self.names, self._images = names, images

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """See :class:`castssl.datasets.parts.PartSet`."""
        return self._images.name(index)

    def read(self, index: int) -> tuple[Image.Image, PartTruth]:
        """See :class:`castssl.datasets.parts.PartSet`."""
        images = self._images
        image = _decoded(lambda: images.source.open(int(images.rows[index])), images.declared).image
        mask, parts = images.mask(index), images.parts(index) if self.names.part_names else None
        owner = int(images.targets[index, -1]) + 1
        if owner < 1:
            raise DataError("the class of its object is unknown")
        if mask is None or (parts is None and self.names.part_names):
            raise DataError(f"no readable mask of its {'object' if mask is None else 'parts'}")
        inside = np.array(mask.convert("L")) > 127
        # Background alone would have an IoU of 1 in any segments.
        if not inside.any() and (parts is None or np.array(parts).any()):
            raise DataError("its mask has no pixel of its object, expected 255 on the object and 0 elsewhere")
        objects = np.where(inside, owner, 0).astype(np.int32)
        if parts is None:
            unknown = np.full_like(objects, -1)
            return image, PartTruth(objects, unknown, unknown)
        numbers = np.array(parts).astype(np.int32)
        if numbers.max() > len(known := self.names.parts[owner - 1]):
            raise DataError(f"its parts have the number {numbers.max()}, expected 0 to {len(known)}")
        numbers[numbers > 0] += self.names.first_part(owner) - 1
        return image, PartTruth(objects, numbers, numbers)


def open_parts(data: str, split: str = "val") -> PartSet:
    """Images whose objects and parts have masks.

    Args:
        data: PartImageNet's folder; ``demo`` with its options; or other images of classes, with masks and
            without parts, as :func:`castssl.datasets.open.open_images` takes them.
        split: of the images.

    Raises:
        DataError: if there is no such data, or it has no classes or masks.
    """
    place = Path(data).expanduser()
    if (place / "annotations").is_dir():
        return PartImageNet(place, split)
    spec = f"folder:{data}" if place.is_dir() else data
    images = open_images(spec, split=split)
    classes = images.tree.names and images.tree.exclusive
    if not isinstance(images, Images) or images.masks is None or not classes:
        raise DataError(
            f"{data} has no masks of objects with a class; expected PartImageNet's folder with annotations/"
            " and images/, demo, or a folder of images with masks/ beside them"
        )
    objects = images.tree.names[-1]
    parts = PARTS if parse(spec)[0] == "demo" else {}
    whole = tuple(tuple(f"{owner} {part}" for part in parts.get(owner, ())) for owner in objects)
    return MaskedParts(images, PartNames(objects, whole))


def _decoded(opener: Callable[[], IO[bytes]], declared: Range | None = None) -> Decoded:
    """An image in RGB; of more than 8 bits, by the declared values of black and white.

    Raises:
        DataError: with the reason, if it cannot be read.
    """
    try:
        with opener() as file:
            return read(header(file, declared), declared=declared)
    except Exception as error:  # Decoders raise almost anything on a broken file.
        if explain(error):
            raise
        raise DataError(f"cannot read the image: {why(error)}") from error
