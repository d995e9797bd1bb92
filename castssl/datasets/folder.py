"""Class folders: the images of a split, and the label tree that their folders spell.

A folder of images is read as ``<root>/[<split>/]<coarse>/.../<fine>/<image>``: as many label levels as
there are folders between the split and the image.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from castssl.contracts import DataSet, Listing
from castssl.datasets.decode import EXTENSIONS
from castssl.datasets.file_names import ignored, is_array, is_image
from castssl.datasets.left_out import left_out, some
from castssl.datasets.regular import open_regular, walk
from castssl.datasets.split_folders import Split, find_split, holds_masks
from castssl.errors import DataError
from castssl.labels import LabelTree

ClassPath = tuple[str, ...]
"""The class folders of an image, coarse to fine; () if it has none."""


class Found(NamedTuple):
    """The image files below a folder, and what is left out there.

    Attributes:
        names: paths below the folder with ``/``, sorted.
        left_out: a sentence for each kind of folder and file that is left out.
    """

    names: list[str]
    left_out: tuple[str, ...]


class Files:
    """Encoded images by row: files below a folder."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = str(folder)
        self.names = pack(names)

    def __len__(self) -> int:
        return len(self.names)

    def open(self, row: int) -> IO[bytes]:
        """An open file."""
        return open_regular(self.path(row))

    def name(self, row: int) -> str:
        """The path below the folder."""
        return os.fsdecode(bytes(self.names[row]))

    def path(self, row: int) -> str:
        """The whole path."""
        return os.path.join(self.folder, self.name(row))


def look_through(folder: Path) -> Found:
    """The image files below ``folder``, else its arrays of numpy, and what is left out there.

    Links to folders are followed, except to a folder around the link.

    Raises:
        DataError: if there is no image, or a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error

    files, arrays, skipped, others, pipes = (list[str]() for _ in range(5))
    for place, folders, names, special in walk(folder, refuse):
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if below == "." else below + "/"
        out = {f for f in folders if ignored(f) or (not prefix and holds_masks(folder / f))}
        skipped += [prefix + f for f in sorted(out)]
        folders[:] = [f for f in folders if f not in out and not _loops(os.path.join(place, f))]
        files += [prefix + name for name in names if is_image(name)]
        arrays += [prefix + name for name in names if is_array(name)]
        others += [name for name in names if not is_image(name)]
        pipes += [prefix + name for name in special]
    if arrays and not files:
        files, others = arrays, [name for name in others if not is_array(name)]
    sentences = left_out(skipped, others, pipes)
    if not files:
        raise DataError(
            f"{folder} holds no images; looked in all sub-folders for {' '.join(EXTENSIONS)} .npy; check the"
            " path" + "".join(f"; {sentence}" for sentence in sentences)
        )
    return Found(sorted(files), sentences)


def _loops(place: str) -> bool:
    """True if ``place`` is a link to one of the folders on the way to it."""
    return os.path.islink(place) and os.path.realpath(place) in {
        os.path.realpath(parent) for parent in Path(place).absolute().parents
    }


def same_depth(paths: list[ClassPath]) -> list[ClassPath]:
    """The class folders of each image; all () with a warning if the images lie at different depths."""
    if len(set(map(len, paths))) > 1:
        examples = ["/".join((*min(paths, key=len), "*")), "/".join((*max(paths, key=len), "*"))]
        warnings.warn(
            f"images lie at different depths ({' and '.join(examples)}), so their folders spell no labels:"
            " the data set counts as unlabeled; put every image equally deep to have classes",
            stacklevel=2,
        )
        return [()] * len(paths)
    return paths


def class_folders(folder: Path, depth: int) -> set[ClassPath]:
    """The class folders below a split, without listing their images."""
    paths: set[ClassPath] = {()}
    for _ in range(depth):
        paths = {
            (*path, entry.name)
            for path in paths
            for entry in os.scandir(folder.joinpath(*path))
            if entry.is_dir() and not ignored(entry.name) and (path or not holds_masks(folder / entry.name))
        }
    return paths


def classes_of(split: Split, paths: Collection[ClassPath]) -> set[ClassPath]:
    """The classes of the data set that a split with these class folders belongs to.

    They are the train split's, so that the number of a class is the same where another split lacks it.

    Raises:
        DataError: if the split has a class that train lacks.
    """
    if split.train is None:
        return set(paths)
    trained = class_folders(split.train, len(next(iter(paths))) or 1)
    return known_classes(set(paths), trained, str(split.folder), str(split.train))


def known_classes(classes: set[ClassPath], trained: set[ClassPath], split: str, train: str) -> set[ClassPath]:
    """The classes that number the labels of a split: those of the train split.

    Args:
        classes: the class folders of the images of the split.
        trained: those of the train split.
        split: the place of the split, for messages.
        train: the place of the train split.

    Raises:
        DataError: if the split has a class that train lacks.
    """
    if classes == {()}:
        if trained - {()}:
            warnings.warn(
                f"the images in {split} have no class folders as those in {train} have, so this split is"
                " unlabeled; sort them into folders of the same names to have classes",
                stacklevel=2,
            )
        return classes
    unknown = sorted("/".join(path) for path in classes - trained)
    if unknown:
        raise DataError(
            f"{split} has {len(unknown)} classes that {train} lacks: {some(unknown)}; both splits need the"
            " same class folders"
        )
    return trained


def pack(names: Sequence[str]) -> NDArray[np.bytes_]:
    """File names as one array: a Python list of a million would be copied into every worker, page by page."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


class Folder(DataSet):
    """Class folders, ``[SPLIT/]COARSE/.../FINE/IMAGE``; without labels if the images lie at other depths."""

    location = "/path/to/images"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        folders = find_split(Path(location).expanduser(), split)
        files, left_out = look_through(folders.folder)
        paths = self.class_paths(folders.folder, files)
        tree = LabelTree.from_paths(classes_of(folders, paths))
        return Listing(Files(folders.folder, files), tree.number(paths), tree, folders.masks, left_out)

    def class_paths(self, folder: Path, files: list[str]) -> list[ClassPath]:
        """The class folders of each of these files below ``folder``; all () if their depths differ."""
        return same_depth([tuple(name.split("/")[:-1]) for name in files])

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        for number, name in enumerate(("a/x/0", "a/y/0", "b/z/0", "b/z/1")):
            for split in ("train", "val"):
                place = folder / split / f"{name}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16 + number, 16), (64 * number, 128, 0)).save(place)
        return str(folder)
