"""The folder of a split: how it is found below the folder of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from castssl.datasets.file_names import ignored, is_image
from castssl.datasets.left_out import some
from castssl.datasets.text import refuse_options
from castssl.errors import DataError, NoSplit

_SPLITS = {
    "train": re.compile(r"train(ing)?[-_]?\d*"),
    "val": re.compile(r"val(id(ation)?)?[-_]?\d*"),
    "test": re.compile(r"test(ing)?[-_]?\d*"),
}
_STAND_INS = {"val": ("val", "test")}
_PICTURES = {"image", "images", "img", "imgs", "photos", "pictures", "jpegimages"}


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
        refuse_options(root)
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
