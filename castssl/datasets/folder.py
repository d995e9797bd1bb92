"""Class folders: the folder of a split, its images, and the label tree that its folders spell.

A folder of images is read as ``<root>/[<split>/]<coarse>/.../<fine>/<image>``: as many label levels as
there are folders between the split and the image.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from castssl import installer
from castssl.contracts import DataSet, Listing
from castssl.datasets.decode import EXTENSIONS, PACKAGES
from castssl.errors import DataError, NoSplit
from castssl.labels import LabelTree

_SPLITS = {
    "train": re.compile(r"train(ing)?[-_]?\d*"),
    "val": re.compile(r"val(id(ation)?)?[-_]?\d*"),
    "test": re.compile(r"test(ing)?[-_]?\d*"),
}
_STAND_INS = {"val": ("val", "test")}
_SYSTEM = {
    *("@eadir", "#recycle", "#snapshot", "lost+found", "$recycle.bin", "system volume information"),
    *("@recycle", "@recently-snapshot", "@__thumb", "@tmp", "__macosx", "__pycache__"),
}
"""Folders that systems and programs create, in lower case."""
_PICTURES = {"image", "images", "img", "imgs", "photos", "pictures", "jpegimages"}
SHOWN = 5
"""The number of names or extensions that a message lists."""

ClassPath = tuple[str, ...]
"""The class folders of an image, coarse to fine; () if it has none."""


class Split(NamedTuple):
    """The folders of one split of a data set.

    Attributes:
        folder: holds the class folders.
        train: the train split's folder, whose classes are the data set's; None if there is only this folder.
        masks: holds the object masks of this split, in the same sub-folders, as ``.png``.
    """

    folder: Path
    train: Path | None
    masks: Path | None


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
        return open(self.path(row), "rb")

    def name(self, row: int) -> str:
        """The path below the folder."""
        return os.fsdecode(bytes(self.names[row]))

    def path(self, row: int) -> str:
        """The whole path."""
        return os.path.join(self.folder, self.name(row))


def split_name(name: str) -> str | None:
    """The split (train, val, test) that a folder called ``name`` holds; None if it is not a split."""
    return next((word for word, pattern in _SPLITS.items() if pattern.fullmatch(name.lower())), None)


def find_split(root: Path, split: str) -> Split:
    """The folder of ``split`` under ``root``; ``root`` itself is the train split if it has no split folders.

    ``val`` may be called val, valid, validation or val2017, and test stands in for a missing one.

    Raises:
        DataError: if ``root`` is missing or no folder, or has no such split, or two.
    """
    if root.is_file():
        hint = f"did you mean tar:{root} ?" if root.suffix == ".tar" else "give the folder that holds it"
        raise DataError(f"{root} is a file, expected a folder of images; {hint}")
    if not root.is_dir():
        parent = next(p for p in root.absolute().parents if p.exists())
        raise DataError(
            f"there is no folder {root}; the path exists up to {parent}: check the spelling and the mount"
        )
    inside = sorted(p for p in root.iterdir() if p.is_dir() and not ignored(p.name) and not holds_masks(p))
    splits = [p for p in inside if split_name(p.name)]
    trains = [p for p in splits if split_name(p.name) == "train"]
    if not splits or (splits != inside and not 0 < len(trains) < len(splits)):
        if split_name(split) != "train":
            no_split(root, split, [p.name for p in inside])
        folder, train = root, None
    else:
        folder = _choose(root, split, splits)
        train = folder if folder in trains else trains[0] if len(trains) == 1 else None
    mask_folders = (folder.parent / "masks" / folder.name, root / "masks" / split)
    return Split(folder, train, next((path for path in mask_folders if path.is_dir()), None))


def no_split(root: Path, split: str, inside: Sequence[str]) -> NoReturn:
    """Raise the error for a missing split."""
    raise NoSplit(
        f"{root} has no {split} split: inside are [{some(inside)}], expected {' or '.join(stand_ins(split))};"
        " put some images into one"
    )


def stand_ins(split: str) -> tuple[str, ...]:
    """The splits that may serve as ``split``, best first."""
    word = split_name(split) or split
    return _STAND_INS.get(word, (word,))


def _choose(root: Path, split: str, splits: Sequence[Path]) -> Path:
    for wanted in stand_ins(split):
        matches = [p for p in splits if split_name(p.name) == wanted]
        exact = [p for p in matches if p.name == split]
        if len(exact or matches) == 1:
            return (exact or matches)[0]
        if matches:
            names = ", ".join(p.name for p in matches)
            raise DataError(f"{root} has several {split} splits, {names}; give the folder of one")
    no_split(root, split, [p.name for p in splits])


def ignored(name: str) -> bool:
    """True for the name of a hidden folder, or of one of a system or program: no class, no split."""
    return name.startswith(".") or name.lower() in _SYSTEM


def holds_masks(place: Path) -> bool:
    """True if ``place`` is called ``masks`` and is not a class: it holds masks for the folders beside it.

    It is a class if images lie in it, unless the only other folder is called ``images`` or the like; without
    images it is a class if its folders are called neither as splits nor as the folders beside or around it.
    """
    if place.name != "masks":
        return False
    beside = {path.name for path in place.parent.iterdir() if path.is_dir() and path != place}
    beside = {name for name in beside if not ignored(name)}
    inside = [path for path in place.iterdir() if not path.name.startswith(".")]
    if any(is_image(path.name) and path.is_file() for path in inside):
        return bool(beside) and {name.lower() for name in beside} <= _PICTURES
    names = {path.name for path in inside if path.is_dir()}
    return all(split_name(name) or name in beside or name == place.parent.name for name in names)


def look_through(folder: Path) -> Found:
    """The image files below ``folder``, else its arrays of numpy, and what is left out there.

    Links to folders are followed, except to a folder around the link.

    Raises:
        DataError: if there is no image, or a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error

    files, arrays, skipped, others = [], list[str](), list[str](), list[str]()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if below == "." else below + "/"
        out = {f for f in folders if ignored(f) or (not prefix and holds_masks(folder / f))}
        skipped += [prefix + f for f in sorted(out)]
        folders[:] = [f for f in folders if f not in out and not _loops(os.path.join(place, f))]
        files += [prefix + name for name in names if is_image(name)]
        arrays += [prefix + name for name in names if is_array(name)]
        others += [name for name in names if not is_image(name)]
    if arrays and not files:
        files, others = arrays, [name for name in others if not is_array(name)]
    sentences = left_out(skipped, others)
    if not files:
        raise DataError(
            f"{folder} holds no images; looked in all sub-folders for {' '.join(EXTENSIONS)} .npy; check the"
            " path" + "".join(f"; {sentence}" for sentence in sentences)
        )
    return Found(sorted(files), sentences)


def left_out(folders: Iterable[str], files: Iterable[str]) -> tuple[str, ...]:
    """Sentences about folders and files that are left out: what, how many, and why.

    Args:
        folders: paths of folders that are :func:`ignored`, or that hold masks.
        files: names of files that count as no images.
    """
    names = list(folders)
    masks = [name for name in names if name == "masks"]
    system = [name for name in names if name != "masks"]
    sentences = [f"left out the folder {some(masks)}: it holds object masks"] if masks else []
    if system:
        sentences.append(f"left out {_count(len(system), 'folder')}, hidden or of a system: {some(system)}")
    counts = Counter(
        "hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "without extension"
        for name in map(os.path.basename, files)
    )
    for extension, package in PACKAGES.items():
        if count := counts.pop(extension, 0):
            sentences.append(
                f"left out {_count(count, f'{extension} file')}: to read them install the package {package}:"
                f" {installer.install(package)}"
            )
    if counts:
        kinds = [
            f"{count:,} {kind}"
            for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]
        sentences.append(f"left out {_count(counts.total(), 'file')} by extension: {some(kinds)}")
    return tuple(sentences)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def some(names: Sequence[str]) -> str:
    """The first :data:`SHOWN` names, for a message."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _loops(place: str) -> bool:
    """True if ``place`` is a link to one of the folders on the way to it."""
    return os.path.islink(place) and os.path.realpath(place) in {
        os.path.realpath(parent) for parent in Path(place).absolute().parents
    }


def is_image(name: str) -> bool:
    """True if a file of this name counts as an image."""
    return name.lower().endswith(EXTENSIONS) and not os.path.basename(name).startswith(".")


def is_array(name: str) -> bool:
    """True if a file of this name counts as an array, which is an image where a folder holds no others."""
    return name.lower().endswith(".npy") and not os.path.basename(name).startswith(".")


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
