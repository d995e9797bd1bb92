"""Images and their label paths: :class:`Images`, of any data set that can be read by index.

``images[i]`` decodes one picture to RGB.  What cannot be decoded is replaced by the next picture that can,
and its name and the reason are handed on, so that one broken file does not end a run of days.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from castssl.contracts import Source, Unreadable
from castssl.datasets.decode import fitted, header, orientation, read, upright_size
from castssl.datasets.depth import Range
from castssl.datasets.masks import MaskFolder, Masks
from castssl.datasets.unreadable import TRIES, Clipped, Ledger, why
from castssl.errors import DataError
from castssl.faults import explain
from castssl.types import LabelTree

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of a picture's width and height: 0 to 1."""


class Plan(NamedTuple):
    """What is known of the views before the picture is decoded."""

    boxes: tuple[Box, ...]
    """One a view; none if the augmentation needs the whole picture."""
    shrink: int
    """1, 2, 4 or 8: decoded at this fraction of its size, the picture still has all that the views show."""


class Sample(NamedTuple):
    """One decoded picture."""

    image: Image.Image
    """RGB, upright."""
    target: Tensor
    """Label path int64 (L,), coarse to fine."""
    position: int
    """The index of this picture; not the one that was asked for if that is unreadable."""
    bad: tuple[Unreadable, ...]
    """The unreadable images that this picture stands in for."""
    plan: Plan | None = None
    """What was drawn for this picture before it was decoded."""
    clipped: tuple[Clipped, ...] = ()
    """This picture, if it has values outside the declared range."""
    orientation: int = 1
    """By EXIF, 1 to 8: how the stored picture was turned."""


class Images(Dataset[tuple[Image.Image, Tensor]]):
    """A map-style data set: ``images[i] -> (RGB picture, label path int64 (L,))``.

    Args:
        source: where the encoded images come from.
        rows: int64 (n,), the rows of ``source`` that belong to the data set.
        targets: int64 (n, L), -1 where unknown.
        tree: the label levels.
        masks: where the object is, and its parts: a folder, or what
            :func:`castssl.datasets.masks.open_masks` gives; None if unknown.
        declared: the values of black and white in pictures of more than 8 bits, where their files do not say.
        left_out: sentences about files and folders beside the images that are no part of the data set.
    """

    bad: Ledger
    """The unreadable images met so far, by whoever loads this data set (or what :meth:`take` made of it)."""

    def __init__(
        self,
        source: Source,
        rows: NDArray[np.int64],
        targets: Tensor,
        tree: LabelTree,
        *,
        masks: Path | Masks | None = None,
        declared: Range | None = None,
        left_out: tuple[str, ...] = (),
    ) -> None:
        self.source = source
        self.rows = rows
        self.targets = targets
        self.tree = tree
        self.masks = MaskFolder(masks) if isinstance(masks, Path) else masks
        self.declared = declared
        self.left_out = left_out
        self.bad = Ledger()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        """The picture and its label path (of its replacement if it is unreadable)."""
        sample = self.fetch(index)
        self.bad.note((*sample.bad, *sample.clipped))
        return sample.image, sample.target

    def fetch(self, index: int, plan: Callable[[int, int], Plan] | None = None) -> Sample:
        """As ``images[index]``, with the unreadable images met on the way, which :attr:`bad` is not told.

        Args:
            index: which image.
            plan: draws from a picture's width and height what its views will show, so that a large JPEG need
                not be decoded at full size.

        Raises:
            DataError: if a hundred pictures in a row (or all there are) cannot be decoded.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        bad: list[Unreadable] = []
        cause: Exception | None = None
        for step in range(min(TRIES, len(self))):
            at = (index + step) % len(self)
            try:
                with self.source.open(int(self.rows[at])) as file:
                    opened, drawn, least = header(file, self.declared), None, None
                    if plan is not None:
                        width, height = upright_size(opened)
                        drawn = plan(width, height)
                        least = (width // drawn.shrink, height // drawn.shrink)
                    image, turn, remark = read(opened, least, self.declared)
            except Exception as error:  # decoders raise almost anything on a broken file
                if explain(error):
                    raise  # not this image's fault
                bad.append(Unreadable(self.source.path(int(self.rows[at])), why(error)))
                cause = error
            else:
                clipped = (Clipped(self.source.path(int(self.rows[at])), remark),) if remark else ()
                return Sample(image, self.targets[at], at, tuple(bad), drawn, clipped, turn)
        raise DataError(
            f"{len(bad)} images in a row cannot be read, from {bad[0].name} ({bad[0].reason}) to"
            f" {bad[-1].name} ({bad[-1].reason}); check the disk, its mount and the files"
        ) from cause

    def inspect(self, index: int, *, decoded: bool = False) -> Unreadable | None:
        """Why one picture cannot be read; None if it can, or the system is at fault.

        Args:
            index: which image.
            decoded: read its pixels, too, at a size that is cheap to decode.
        """
        try:
            with self.source.open(int(self.rows[index])) as file:
                opened = header(file, self.declared)
                if decoded:
                    read(opened, (opened.width // 8, opened.height // 8), self.declared)
        except Exception as error:  # as in fetch
            if not explain(error):
                return Unreadable(self.source.path(int(self.rows[index])), why(error))
        return None

    def take(self, indices: Sequence[int]) -> Images:
        """The same data set with these images only, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        rows, targets = self.rows[chosen], self.targets[torch.from_numpy(chosen)]
        more: dict[str, Any] = {"masks": self.masks, "declared": self.declared, "left_out": self.left_out}
        taken = Images(self.source, rows, targets, self.tree, **more)
        taken.bad = self.bad
        return taken

    def hide_fine(self, share: float, *, seed: int = 0) -> Images:
        """The same images, of which some are labelled at coarse levels only, as in free-grain training.

        For each image that is chosen a level is drawn from 1 to L - 1, from which on its labels are -1; level
        0 stays known.  What happens to an image depends on ``seed`` and its row in the source alone, so that
        a larger share hides the labels of the same images and more.

        Args:
            share: of the images, in [0, 1], to the nearest image.
            seed: non-negative; another one chooses other images and levels.

        Raises:
            DataError: if the share or the seed is out of range, or there are fewer than two levels.
        """
        levels = self.tree.levels
        if not 0 <= share <= 1 or seed < 0:
            raise DataError(f"share {share} and seed {seed}: expected a share in [0, 1] and a seed from 0")
        if levels < 2:
            raise DataError(
                f"fine labels cannot be hidden: the labels are of {levels} levels, expected two or more"
            )
        drawn = np.random.SeedSequence(seed).generate_state(2, np.uint64)
        order, depth = (hash_index(self.rows, int(word)) for word in drawn)
        chosen = np.argsort(order, kind="stable")[: round(share * len(self))]
        first = np.full(len(self), levels)
        first[chosen] = 1 + (depth[chosen] % np.uint64(levels - 1)).astype(np.int64)
        hidden = torch.arange(levels) >= torch.from_numpy(first).unsqueeze(1)
        coarser = self.take(range(len(self)))
        coarser.targets = self.targets.masked_fill(hidden, -1)
        return coarser

    def name(self, index: int) -> str:
        """The file's path below its split, or what its source calls it."""
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
        if self.masks is None:
            return None
        try:
            mask = self.masks.whole(name) if kind == "mask" else self.masks.parts(name)
            if mask is None:
                return None
            if unreadable := self.inspect(index):
                self.bad.note([unreadable])
                return None
            with self.source.open(int(self.rows[index])) as file:
                opened = header(file)
                if mask.size == opened.size and mask.width == mask.height:
                    return mask  # To read the orientation of a PNG decodes it.
                turn = orientation(opened)  # Before PIL turns a TIFF image.
                return fitted(mask, upright_size(opened), turn)
        except Exception as error:  # as in fetch
            self.bad.note([Unreadable(f"the {kind} of {name}", why(error))])
            return None


def hash_index(numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A random-looking 64-bit word for each number, which depends on it and the seed alone.

    The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014),
    a bijection: different numbers give different words.

    Args:
        numbers: int64 (n,).
        seed: in [0, 2**64).
    """
    word = numbers.astype(np.uint64) + np.uint64(seed)
    word = (word + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = word ^ (word >> np.uint64(31))
    return mixed
