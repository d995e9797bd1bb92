"""Images and their label paths: :class:`Images`, of any data set that can be read by index.

``images[i]`` decodes one image to RGB.  An image that cannot be decoded is replaced by the next one that can,
and its name and the reason are reported, so that one broken file does not end a run of days.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from castssl.contracts import LabelMaps, Source
from castssl.datasets.decode import header, read
from castssl.datasets.depth import Range
from castssl.datasets.image_texts import ImageTexts
from castssl.datasets.label_maps import Labels, open_labels, to_classes
from castssl.datasets.masks import MaskFolder, Masks
from castssl.datasets.orientation import fitted, orientation, upright_size
from castssl.datasets.unreadable import TRIES, Clipped, Ledger, why
from castssl.errors import DataError
from castssl.feed import Unreadable
from castssl.labels import LabelTree
from castssl.system_errors import explain

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of an image's width and height: 0 to 1."""


class Plan(NamedTuple):
    """The crops of an image, drawn before it is decoded.

    Attributes:
        boxes: one per view; none if the augmentation needs the whole image.
        shrink: 1, 2, 4 or 8: decoded at this fraction of its size, the image still has all pixels that the
            views need.
    """

    boxes: tuple[Box, ...]
    shrink: int


class Sample(NamedTuple):
    """One decoded image.

    Attributes:
        image: RGB, or of the channels of the data set; upright.
        target: label path int64 (L,), coarse to fine, or multi-hot float32 (C,).
        position: the index of this image; another one than requested if that is unreadable.
        bad: the unreadable images that this one replaces, and itself if it has values outside its range.
        plan: drawn for this image before it was decoded.
        labels: the label map, int32 (H, W), each a class or -1; None if it was not asked for.
        text: the embedding of its text, float32 (E,); None if the data set has no texts.
    """

    image: Image.Image
    target: Tensor
    position: int
    bad: tuple[Unreadable | Clipped, ...]
    plan: Plan | None = None
    labels: Labels | None = None
    text: Tensor | None = None


@dataclass(eq=False, repr=False)
class Images(Dataset[tuple[Image.Image, Tensor]]):
    """A map-style data set: ``images[i] -> (RGB image, label path int64 (L,))``.

    Args:
        source: the encoded images.
        rows: int64 (n,), the rows of ``source`` that belong to the data set.
        targets: int64 (n, L) or multi-hot float32 (n, C), -1 where unknown.
        tree: the label levels.
        masks: of the objects and their parts: a folder, or the result of
            :func:`castssl.datasets.masks.open_masks`; None if unknown.
        declared: the values of black and white in images of more than 8 bits, if the files lack them.
        channels: that the images have; 3 for RGB and for gray, see :mod:`castssl.datasets.multichannel`.
        left_out: sentences about files and folders beside the images that are not part of the data set.
        maps: the label maps of the images of ``source``; None without any.
        pixel_tree: the classes of the label maps; the images themselves have no labels then.
        texts: of the images of ``source``, see :mod:`castssl.datasets.image_texts`; None without any.
        bad: the unreadable images so far, of this data set and all that :meth:`take` made of it.
    """

    source: Source
    rows: NDArray[np.int64]
    targets: Tensor
    tree: LabelTree
    _: KW_ONLY
    masks: Path | Masks | None = None
    declared: Range | None = None
    channels: int = 3
    left_out: tuple[str, ...] = ()
    maps: LabelMaps | None = None
    pixel_tree: LabelTree = field(default_factory=LabelTree.none)
    texts: ImageTexts | None = None
    bad: Ledger = field(default_factory=Ledger)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        """The image and its label path (of its replacement if it is unreadable)."""
        sample = self.fetch(index)
        self.bad.note(sample.bad)
        return sample.image, sample.target

    def fetch(
        self, index: int, plan: Callable[[int, int], Plan] | None = None, *, labels: bool = False
    ) -> Sample:
        """As ``images[index]``, with the unreadable images, which are not added to :attr:`bad`.

        Args:
            index: of the image.
            plan: draws the crops from an image's width and height, so that a large JPEG need not be decoded
                at full size.
            labels: read the label map, too; an image whose label map cannot be decoded is unreadable.  The
                image is then decoded at full size.

        Raises:
            DataError: if a hundred images in a row (or all there are) cannot be decoded, or a label map has
                colors, another size than its image, or a value that is not a class.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        bad: list[Unreadable] = []
        cause: Exception | None = None
        for step in range(min(TRIES, len(self))):
            position = (index + step) % len(self)
            row = int(self.rows[position])
            try:
                with self.source.open(row) as file:
                    opened, drawn, least = header(file, self.declared, self.channels), None, None
                    if plan is not None:
                        width, height = upright_size(opened)
                        drawn = plan(width, height)
                        least = (width // drawn.shrink, height // drawn.shrink)
                    image, turn, remark = read(opened, least, self.declared)
                stored = open_labels(self.maps, row) if labels and self.maps else None
            except Exception as error:  # Decoders raise almost anything on a broken file.
                if explain(error):
                    raise  # The fault is not this image's.
                bad.append(Unreadable(self.source.path(row), why(error)))
                cause = error
            else:
                clipped = [Clipped(self.source.path(row), remark)] if remark else []
                classes = None
                if stored is not None and self.maps is not None:
                    classes = to_classes(stored, self.maps, row, image.size, turn)
                text = self.texts.of(row) if self.texts else None
                return Sample(image, self.targets[position], position, (*bad, *clipped), drawn, classes, text)
        raise DataError(
            f"{len(bad)} images in a row cannot be read, from {bad[0].name} ({bad[0].reason}) to"
            f" {bad[-1].name} ({bad[-1].reason}); check the disk, its mount and the files"
        ) from cause

    def inspect(self, index: int, *, decoded: bool = False) -> Unreadable | None:
        """The reason why one image cannot be read; None if it can, or the system is at fault.

        Args:
            index: of the image.
            decoded: read its pixels, too, at a size that is cheap to decode.
        """
        row = int(self.rows[index])
        try:
            with self.source.open(row) as file:
                opened = header(file, self.declared, self.channels)
                if decoded:
                    read(opened, (max(1, opened.width // 8), max(1, opened.height // 8)), self.declared)
        except Exception as error:  # As in fetch.
            return None if explain(error) else Unreadable(self.source.path(row), why(error))
        return None

    def take(self, indices: Sequence[int]) -> Images:
        """The same data set with these images only, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(self, rows=self.rows[chosen], targets=self.targets[torch.from_numpy(chosen)])

    def label_paths(self) -> tuple[Tensor, Tensor]:
        """The label paths int64 (P, L), and the row of each image's int64 (n,); L is 0 with many labels."""
        if not (self.tree.levels and self.tree.exclusive):  # torch.unique refuses paths of length 0.
            return torch.zeros(1, 0, dtype=torch.int64), torch.zeros(len(self), dtype=torch.int64)
        paths, rows = torch.unique(self.targets, dim=0, return_inverse=True)
        return paths, rows

    def name(self, index: int) -> str:
        """The file's path below its split, or its name in the source."""
        return self.source.name(int(self.rows[index]))

    def mask(self, index: int) -> Image.Image | None:
        """The object mask, mode "L", 255 on the object, as it lies on the upright image.

        None if there is none, it cannot be read, or it fits neither the upright nor the stored image.
        """
        return self._upright(index, "mask")

    def parts(self, index: int) -> Image.Image | None:
        """The part mask, 1, 2, ... on parts and 0 elsewhere; otherwise as :meth:`mask`."""
        return self._upright(index, "parts")

    def _upright(self, index: int, kind: Literal["mask", "parts"]) -> Image.Image | None:
        name = self.name(index)
        masks = MaskFolder(self.masks) if isinstance(self.masks, Path) else self.masks
        if masks is None:
            return None
        try:
            mask = masks.mask(name) if kind == "mask" else masks.parts(name)
            if mask is None:
                return None
            if unreadable := self.inspect(index):
                self.bad.note([unreadable])
                return None
            with self.source.open(int(self.rows[index])) as file:
                opened = header(file, channels=self.channels)
                if mask.size == opened.size and mask.width == mask.height:
                    return mask  # To read the orientation of a PNG decodes it.
                turn = orientation(opened)  # Before PIL turns a TIFF image.
                return fitted(mask, upright_size(opened), turn)
        except Exception as error:  # As in fetch.
            if explain(error):
                raise
            self.bad.note([Unreadable(f"the {kind} of {name}", why(error))])
            return None
