"""Class folders: which sub-folder is the split, which files are images, which label tree the folders spell.

A folder of images is read as ``<root>/[<split>/]<coarse>/.../<fine>/<image>``: as many label levels as
there are folders between the split and the image.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from castssl.data.decode import EXTENSIONS
from castssl.errors import DataError
from castssl.types import LabelTree

_SPLITS = {
    "train": re.compile(r"train(ing)?[-_]?\d*"),
    "val": re.compile(r"val(id(ation)?)?[-_]?\d*"),
    "test": re.compile(r"test(ing)?[-_]?\d*"),
}
_STAND_INS = {"val": ("val", "test")}

ClassPath = tuple[str, ...]
"""The class folders of an image, coarse to fine; () if it has none."""


class NoSplit(DataError):
    """The data set is there, but has no such split."""


class Split(NamedTuple):
    """Where one split of a data set lies."""

    folder: Path
    """Holds the class folders."""
    train: Path | None
    """The train split's folder, whose classes are the data set's; None if there is only this folder."""
    masks: Path | None
    """Where the object masks of this split lie, in the same sub-folders, as ``.png``."""


class Files:
    """Encoded images by row: files below a folder."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = str(folder)
        self.names = pack(names)

    def open(self, row: int) -> IO[bytes]:
        """An open file."""
        return open(self.place(row), "rb")

    def name(self, row: int) -> str:
        """The path below the folder."""
        return os.fsdecode(bytes(self.names[row]))

    def place(self, row: int) -> str:
        """The whole path."""
        return os.path.join(self.folder, self.name(row))


def split_name(name: str) -> str | None:
    """The house's word (train, val, test) for a split called ``name``; None if it is no split."""
    return next((word for word, pattern in _SPLITS.items() if pattern.fullmatch(name.lower())), None)


def find_split(root: Path, split: str) -> Split:
    """The folder of ``split`` under ``root``; ``root`` itself is the train split if it has no split folders.

    ``val`` may be called val, valid, validation or val2017, and test stands in for a missing one.

    Raises:
        DataError: if ``root`` is missing or no folder, or has no such split, or two.
    """
    if not root.is_dir():
        raise DataError(_missing(root))
    inside = sorted(p for p in root.iterdir() if p.is_dir() and p.name[0] != "." and p.name != "masks")
    splits = [p for p in inside if split_name(p.name)]
    words = {split_name(p.name) for p in splits}
    if not splits or (splits != inside and not {"train"} < words):
        if split_name(split) != "train":
            no_split(root, split, [p.name for p in inside])
        return Split(root, None, _masks(root, root, split))
    folder = _choose(root, split, splits)
    trains = (
        [folder] if split_name(split) == "train" else [p for p in splits if split_name(p.name) == "train"]
    )
    return Split(folder, trains[0] if len(trains) == 1 else None, _masks(root, folder, split))


def _missing(root: Path) -> str:
    if root.is_file():
        hint = f"did you mean tar:{root} ?" if root.suffix == ".tar" else "give the folder that holds it"
        return f"{root} is a file, expected a folder of images; {hint}"
    parent = next(p for p in root.absolute().parents if p.exists())
    return f"there is no folder {root}; the path exists up to {parent}: check the spelling and the mount"


def no_split(root: Path, split: str, inside: Sequence[str]) -> NoReturn:
    """Raise the error for a split that is not there."""
    seen = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
    raise NoSplit(
        f"{root} has no {split} split: inside are [{seen}], expected {' or '.join(stand_ins(split))}; put"
        " some images into one, or ask for the split that is there"
    )


def stand_ins(split: str) -> tuple[str, ...]:
    """Which splits may serve as ``split``, best first."""
    word = split_name(split) or split
    return _STAND_INS.get(word, (word,))


def _choose(root: Path, split: str, splits: Sequence[Path]) -> Path:
    for wanted in stand_ins(split):
        found = [p for p in splits if split_name(p.name) == wanted]
        exact = [p for p in found if p.name == split]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if found:
            names = ", ".join(p.name for p in found)
            raise DataError(f"{root} has several {split} splits, {names}; give the folder of one")
    no_split(root, split, [p.name for p in splits])


def _masks(root: Path, folder: Path, split: str) -> Path | None:
    places = (folder.parent / "masks" / folder.name, root / "masks" / split)
    return next((place for place in places if place.is_dir()), None)


def find_images(folder: Path) -> list[str]:
    """The image files below ``folder``, relative with ``/``, sorted; hidden files and ``masks/`` left out.

    Links to folders are followed, but not into a folder that one is in already.

    Raises:
        DataError: if there is none, or a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error

    files = []
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        at = os.path.relpath(place, folder).replace(os.sep, "/")
        folders[:] = [f for f in folders if f[0] != "." and (f != "masks" or at != ".")]
        folders[:] = [f for f in folders if not _loops(os.path.join(place, f))]
        prefix = "" if at == "." else at + "/"
        files += [prefix + name for name in names if is_image(name)]
    if not files:
        raise DataError(
            f"{folder} holds no images; looked in all sub-folders for {' '.join(EXTENSIONS)}; check the path"
        )
    return sorted(files)


def _loops(place: str) -> bool:
    """True if ``place`` is a link to one of the folders on the way to it."""
    return os.path.islink(place) and os.path.realpath(place) in {
        os.path.realpath(parent) for parent in Path(place).absolute().parents
    }


def is_image(name: str) -> bool:
    """True if a file of this name counts as an image."""
    return name.lower().endswith(EXTENSIONS) and not os.path.basename(name).startswith(".")


def same_depth(paths: list[ClassPath]) -> list[ClassPath]:
    """The class folders of each image; all () with a warning if the images lie at different depths."""
    if len(set(map(len, paths))) > 1:
        examples = ["/".join((*min(paths, key=len), "*")), "/".join((*max(paths, key=len), "*"))]
        warnings.warn(
            f"images lie at different depths ({' and '.join(examples)}), so their folders spell no labels:"
            " the data set counts as unlabelled; put every image equally deep to have classes",
            stacklevel=2,
        )
        return [()] * len(paths)
    return paths


def class_folders(folder: Path, depth: int) -> set[ClassPath]:
    """The class folders below a split, without listing their images."""
    found: set[ClassPath] = {()}
    for _ in range(depth):
        found = {
            (*path, entry.name)
            for path in found
            for entry in os.scandir(folder.joinpath(*path))
            if entry.is_dir() and entry.name[0] != "."
        }
    return found


def classes_of(split: Split, paths: Collection[ClassPath]) -> set[ClassPath]:
    """The classes of the data set that a split with these class folders belongs to.

    They are the train split's, so that a class which another split happens to lack keeps its number.

    Raises:
        DataError: if the split has a class that train lacks.
    """
    own = set(paths)
    depth = len(next(iter(own)))
    if split.train is None or not depth:
        if split.train is not None and class_folders(split.train, 1):
            warnings.warn(
                f"the images in {split.folder} have no class folders as those in {split.train} have, so this"
                " split is unlabelled; sort them into folders of the same names to have classes",
                stacklevel=2,
            )
        return own
    known = class_folders(split.train, depth)
    strange = sorted("/".join(path) for path in own - known)
    if strange:
        raise DataError(
            f"{split.folder} has {len(strange)} classes that {split.train} lacks: {', '.join(strange[:5])};"
            " both splits need the same class folders"
        )
    return known


def label_tree(classes: Collection[ClassPath]) -> tuple[LabelTree, dict[ClassPath, tuple[int, ...]]]:
    """The tree that class folders spell, classes in alphabetical order, and each one's label path."""
    depth = max(map(len, classes), default=0)
    levels = [sorted({path[:end] for path in classes}) for end in range(1, depth + 1)]
    index = [{path: number for number, path in enumerate(level)} for level in levels]
    tree = LabelTree(
        sizes=tuple(map(len, levels)),
        parents=tuple(tuple(index[i][path[:-1]] for path in levels[i + 1]) for i in range(depth - 1)),
        names=tuple(tuple(path[-1] for path in level) for level in levels),
    )
    return tree, {path: tuple(index[i][path[: i + 1]] for i in range(depth)) for path in classes}


def pack(names: Sequence[str]) -> NDArray[np.bytes_]:
    """File names as one array: a Python list of a million would be copied into every worker, page by page."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
