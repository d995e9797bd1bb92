"""Images and their label paths, from folders, archives, the Hub or the embedded demo: ``open_images``.

``images[i]`` decodes one picture to RGB.  What cannot be decoded is replaced by the next picture that can,
and its name and the reason are handed on, so that one broken file does not end a run of days.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from castssl.data import archives, folders, readers
from castssl.data.augment import Plan
from castssl.data.decode import header, pixels
from castssl.data.unreadable import TRIES, Ledger, Unreadable, why
from castssl.errors import DataError
from castssl.types import LabelTree


class Source(Protocol):
    """Encoded images by row."""

    def open(self, row: int) -> tuple[IO[bytes], int | None]:
        """An open file, and the class if the source itself knows it."""
        ...

    def name(self, row: int) -> str:
        """What to call the image, and its path below the split if it is a file."""
        ...

    def place(self, row: int) -> str:
        """Where the user finds the image, for messages."""
        ...


class Sample(NamedTuple):
    """One decoded picture."""

    image: Image.Image
    """RGB."""
    target: Tensor
    """Label path int64 (L,), coarse to fine."""
    at: int
    """The index of this picture; not the one that was asked for if that is unreadable."""
    bad: tuple[Unreadable, ...]
    """The unreadable images that this picture stands in for."""
    plan: Plan | None = None
    """What was drawn for this picture before it was decoded."""


class Images(Dataset[tuple[Image.Image, Tensor]]):
    """A map-style data set: ``images[i] -> (RGB picture, label path int64 (L,))``.

    Args:
        source: where the encoded images come from.
        rows: int64 (n,), the rows of ``source`` that belong to the data set.
        targets: int64 (n, L); None if the source knows the class (of a tree of one level) by itself.
        tree: the label levels.
        masks: a folder of object masks, or None.
    """

    bad: Ledger
    """The unreadable images met so far, by whoever loads this data set (or what :meth:`take` made of it)."""

    def __init__(
        self,
        source: Source,
        rows: NDArray[np.int64],
        targets: Tensor | None,
        tree: LabelTree,
        *,
        masks: Path | None = None,
    ) -> None:
        self.source = source
        self.rows = rows
        self.targets = targets
        self.tree = tree
        self.masks = masks
        self.bad = Ledger()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        """The picture and its label path (of its replacement if it is unreadable)."""
        sample = self.fetch(index)
        self.bad.note(sample.bad)
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
                file, label = self.source.open(int(self.rows[at]))
                with file:
                    opened = header(file)
                    drawn = None if plan is None else plan(*opened.size)
                    least = drawn and (opened.width // drawn.shrink, opened.height // drawn.shrink)
                    image = pixels(opened, least)
            except Exception as error:  # decoders raise almost anything on a broken file
                bad.append(Unreadable(self.source.place(int(self.rows[at])), why(error)))
                cause = error
            else:
                return Sample(image, self._target(at, label), at, tuple(bad), drawn)
        raise DataError(
            f"{len(bad)} images in a row cannot be read, from {bad[0].name} ({bad[0].reason}) to"
            f" {bad[-1].name} ({bad[-1].reason}); check the disk, its mount and the files"
        ) from cause

    def _target(self, at: int, label: int | None) -> Tensor:
        if self.targets is not None:
            return self.targets[at]
        return torch.tensor([label] if self.tree.levels else [], dtype=torch.int64)

    def take(self, indices: Sequence[int]) -> Images:
        """The same data set with these images only, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        targets = None if self.targets is None else self.targets[torch.from_numpy(chosen)]
        rows = self.rows[chosen]
        taken = Images(self.source, rows, targets, self.tree, masks=self.masks)
        taken.bad = self.bad
        return taken

    def name(self, index: int) -> str:
        """The file's path below its split, or what its source calls it."""
        return self.source.name(int(self.rows[index]))

    def mask(self, index: int) -> Image.Image | None:
        """The object mask, mode "L", 255 on the object, at the file's full size; None if there is none."""
        if self.masks is None:
            return None
        path = (self.masks / self.name(index)).with_suffix(".png")
        if not path.is_file():
            return None
        with Image.open(path) as mask:
            return mask.convert("L")

    def pair(self, index: int) -> tuple[Image.Image, Image.Image] | None:
        """A picture and its own :meth:`mask`; None if it has none, or one of both cannot be read."""
        try:
            mask = self.mask(index)
        except Exception as error:  # as in fetch
            self.bad.note([Unreadable(f"the mask of {self.name(index)}", why(error))])
            return None
        if mask is None:
            return None
        sample = self.fetch(index)
        self.bad.note(sample.bad)
        return None if sample.bad else (sample.image, mask)


class Subset(NamedTuple):
    """Some of the classes."""

    name: str
    classes: frozenset[str]


def open_images(spec: str, *, split: str = "train", subset: str | None = None) -> Images | readers.Stream:
    """The data set that ``spec`` names.

    Args:
        spec: ``folder:/path``, ``tar:/path.tar``, ``hfds/NAME[:root]``, or ``demo`` with options of
            :func:`castssl.data.demo.root` as in ``demo:size=64,per_class=50``; or one that can only be
            streamed, and so gives a :class:`castssl.data.readers.Stream`: ``wds/NAME:/path``,
            ``hfids/NAME[:root]``, ``tfds/NAME[:root]``.  timm's reader options may follow where timm reads,
            as in ``hfds/cifar100?input_key=img&target_key=fine_label``.
        split: "train", "val" or "test".
        subset: "imagenet100", or a text file with one class name a line ("#" begins a comment): only
            these classes are kept and numbered.

    Raises:
        DataError: if the spec is unknown, the path or split is missing, there are no images, a class of the
            subset is missing, or an optional package is not installed.
    """
    kind, name = readers.parse(spec)
    only = None if subset is None else read_subset(subset)
    if kind == "demo":
        images = _open_folder(_demo(name), split, only)
    elif kind == "folder":
        images = _open_folder(Path(name).expanduser(), split, only)
    elif kind == "tar":
        source, paths = archives.open_tar(Path(name).expanduser(), split)
        images = _select(source, folders.same_depth(paths), set(paths), only)
    elif kind == "hfds":
        images = _open_hub(name, split, only)
    elif only is not None:
        raise DataError(
            f"{spec} is a stream: no subset {subset} can be picked from it; use folder: or hfds/ data"
        )
    else:
        return readers.Stream(kind, name, split)
    return images


def _demo(options: str) -> Path:
    from castssl.data import demo

    try:
        given = {
            key: int(value) for key, _, value in (pair.partition("=") for pair in options.split(",") if pair)
        }
        return demo.root(**given)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"cannot make the demo data of {options!r}: {error}; expected demo, or something like"
            " demo:size=96,per_class=300,seed=0"
        ) from error


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
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    names = frozenset(line for line in lines if line)
    if not names:
        raise DataError(f"subset file {path} names no class; write one class name a line")
    return Subset(subset, names)


def _open_folder(root: Path, split: str, only: Subset | None) -> Images:
    at = folders.find_split(root, split)
    files = folders.find_images(at.folder)
    paths = folders.same_depth([tuple(name.split("/")[:-1]) for name in files])
    source = folders.Files(at.folder, files)
    return _select(source, paths, folders.classes_of(at, paths), only, masks=at.masks)


def _select(
    source: Source,
    paths: Sequence[folders.ClassPath],
    classes: set[folders.ClassPath],
    only: Subset | None,
    *,
    masks: Path | None = None,
) -> Images:
    if only is not None:
        classes = folders.pick_classes(classes, only.classes, only.name)
    tree, index = folders.label_tree(classes)
    rows = [row for row, path in enumerate(paths) if path in index]
    if not rows:
        raise DataError(f"no image of this split is in subset {only and only.name}; check the split")
    targets = torch.tensor([index[paths[row]] for row in rows], dtype=torch.int64)
    targets = targets.view(len(rows), tree.levels)
    return Images(source, np.array(rows, dtype=np.int64), targets, tree, masks=masks)


def _open_hub(name: str, split: str, only: Subset | None) -> Images:
    source = readers.Hub(name, split)
    if only is None:
        tree = LabelTree.flat(source.classes) if source.classes else LabelTree.none()
        return Images(source, np.arange(len(source), dtype=np.int64), None, tree)
    if not source.classes:
        raise DataError(f"hfds/{name} names no classes, so subset {only.name} cannot be picked from it")
    paths = [(source.classes[label],) for label in source.labels()]
    return _select(source, paths, {(name,) for name in source.classes}, only)
