"""Masks of the object of an image and of its parts: from folders, or from one file of annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from castssl.datasets.coco_masks import Annotations
from castssl.datasets.decode import header
from castssl.datasets.orientation import orientation, turned
from castssl.errors import DataError


class Masks(Protocol):
    """Masks by the name of the image, its path below the split."""

    def knows(self, name: str) -> bool:
        """Whether there is a mask of that image's object."""
        ...

    def mask(self, name: str) -> Image.Image | None:
        """The object, mode "L", 255 on it and 0 elsewhere, at the file's full size; None if unknown."""
        ...

    def parts(self, name: str) -> Image.Image | None:
        """Its parts, mode "L" or "I", 1, 2, ... on them and 0 elsewhere; None if unknown."""
        ...


class MaskFolder:
    """Masks as ``.png`` files in the same sub-folders as the images.

    Object masks are gray, 255 on the object and 0 elsewhere; a palette of grays counts as gray.  The gray of
    another color, such as of a palette of classes, has no such meaning: masks with colors are refused.  Part
    masks are read as they are stored: palette images by their indices.

    Args:
        folder: of the object masks.  If ``masks`` is the last or last but one name of its path, as in
            ``masks/val``, the part masks are in the folder with ``parts`` in its place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def knows(self, name: str) -> bool:
        """See :class:`Masks`."""
        return (self.folder / name).with_suffix(".png").is_file()

    def mask(self, name: str) -> Image.Image | None:
        """See :class:`Masks`.

        Raises:
            DataError: if the mask has colors.
        """
        mask = _read(self.folder, name)
        return None if mask is None else _gray(mask)

    def parts(self, name: str) -> Image.Image | None:
        """See :class:`Masks`.

        Raises:
            DataError: if the mask has several channels.
        """
        *rest, above, last = ("", *self.folder.parts)
        if "masks" not in (above, last):
            return None
        beside = (above, "parts") if last == "masks" else ("parts", last)
        parts = _read(Path(*rest, *beside), name)
        if parts is not None and len(parts.getbands()) > 1:
            raise DataError(
                f"the part mask has the mode {parts.mode}, expected one channel, 1, 2, ... on parts and 0"
                " elsewhere; write the number of each color's part as a PNG of 8 or 16 bits"
            )
        return parts


def _read(folder: Path, name: str) -> Image.Image | None:
    path = (folder / name).with_suffix(".png")
    if not path.is_file():
        return None
    with path.open("rb") as file:
        mask = header(file)
        mask.load()
        return turned(mask, orientation(mask))


def _gray(mask: Image.Image) -> Image.Image:
    """An object mask, mode "L".

    Raises:
        DataError: if it has a color other than a gray.
    """
    if mask.mode in ("P", "PA") or len(mask.getbands()) > 2:
        pixels = np.asarray(mask.convert("RGB"))
        colored = (pixels != pixels[..., :1]).any(2)
        if colored.any():
            color = tuple(pixels[colored][0].tolist())
            kind = "a palette with colors" if mask.mode in ("P", "PA") else "colors"
            raise DataError(
                f"the object mask has {kind}, such as {color}, expected 255 on the object and 0 elsewhere;"
                " write 255 as gray at the colors of objects"
            )
    return mask.convert("L")


def open_masks(path: Path | str) -> Masks:
    """The masks at ``path``: a folder, or a ``.json`` file of annotations in COCO's layout.

    Raises:
        DataError: if there is neither, or the file is not in that layout.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return MaskFolder(place)
    if place.is_file() and place.suffix.lower() == ".json":
        return Annotations.read(place)
    kind = "a file of another kind" if place.exists() else "nothing"
    raise DataError(
        f"masks at {place}: got {kind}, expected a folder of .png masks, or a .json file of annotations such"
        " as PartImageNet's; check the path"
    )
