"""The lists, label trees and class names of Free-Grained's data sets, in the format of their release.

Free-Grained Hierarchical Visual Recognition (CVPR 2026), https://arxiv.org/abs/2510.14737; files by
https://github.com/pseulki/FreeGrainLearning.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from castssl.datasets.file_names import is_image
from castssl.datasets.layout_checks import require
from castssl.datasets.text import read_text
from castssl.errors import DataError
from castssl.labels import LabelTree

Given = Literal["absent", "checked", "range", "unused"]
"""What the fifth column of a list is: not there; read, and its class compared with the other columns; read
for its level alone, as by the released loader; not read, and not needed."""
HOME = "free-grained"
"""The key of :data:`castssl.datasets.layout_checks.HOMES`."""
SHOWN = 80
"""Characters of a file that a message shows."""
FORM = "<split>/<class folder>/<image> <basic> <subordinate> <fine>"
COLUMNS: Mapping[Given, tuple[int, ...]] = {"absent": (4,), "checked": (5,), "range": (5,), "unused": (4, 5)}


class ImageList(NamedTuple):
    """The images of a list, each once."""

    first: str
    """The first folder of all paths: train or val."""
    files: list[str]
    """Paths below that folder."""
    paths: Tensor
    """int64 (n, 3): basic, subordinate and fine class."""
    depths: Tensor
    """int64 (n,): how many levels of each path are given in training, from 1; 3 without a fifth column."""
    repeated: int
    """How many lines were left out, as an earlier line is the same."""


def read_list(path: Path, tree: LabelTree, given: Given) -> ImageList:
    """A list of images, one per line, in columns that blanks separate.

    The first four columns are a path, and the image's basic, subordinate and fine class, each from 0 within
    its level.  The fifth, of a train list, is the finest class that is given in training, numbered through
    all levels: first the basic classes, then the subordinate ones, then the fine ones.

    Args:
        path: of the list.
        tree: of the classes.
        given: what the fifth column is.

    Raises:
        DataError: if the file is missing or empty, a line is not as described, or two lines of an image have
            other columns; it names the line.
    """
    expected = FORM + {"absent": "", "unused": " [<given>]"}.get(given, " <given>")
    lines = read_text(require(path, f"lines of {expected}", HOME)).splitlines()
    parsed: dict[str, tuple[tuple[int, ...], int]] = {}  # An image of 645,480 shares its columns with others.
    labels, first, read = dict[str, str](), "", 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, columns = line.strip().replace("\t", " ").partition(" ")
        try:
            first, file = _split_path(name, first)
            if columns not in parsed:
                parsed[columns] = _read_columns(columns.split(), tree, given)
            if parsed[labels.setdefault(file, columns)] != parsed[columns]:
                raise ValueError(f"an earlier line has {labels[file]!r} for this image")
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: {error}; got {line.strip()[:SHOWN]!r}, expected {expected}; copy the"
                " list again"
            ) from error
        read += 1
    if not labels:
        raise DataError(f"{path} is empty, expected lines of {expected}; copy the list again")
    paths, depths = zip(*(parsed[columns] for columns in labels.values()), strict=True)
    return ImageList(first, [*labels], torch.tensor(paths), torch.tensor(depths), read - len(labels))


def _split_path(name: str, first: str) -> tuple[str, str]:
    """The first folder of a path, and the rest.

    Raises:
        ValueError: if it is not a path of an image below a split and a class, or not in the folder ``first``.
    """
    top, _, file = name.partition("/")
    if "/" not in file or {"", ".", ".."} & {*name.split("/")} or not is_image(file):
        raise ValueError(f"{name!r} is not a path of an image")
    if first and top != first:
        raise ValueError(f"the path begins with {top}/, those before with {first}/")
    return top, file


def _read_columns(cells: Sequence[str], tree: LabelTree, given: Given) -> tuple[tuple[int, ...], int]:
    """The label path of the columns behind the image's path, and how many levels of it are given.

    Raises:
        ValueError: with the reason, if that is not a path of the tree.
    """
    if len(cells) + 1 not in COLUMNS[given]:
        raise ValueError(f"{len(cells) + 1} columns")
    for cell in cells:
        if not (cell.isascii() and cell.isdecimal() and len(cell) < 10):
            raise ValueError(f"{cell[:SHOWN]!r} is not a class number")
    path = tuple(map(int, cells[: tree.levels]))
    for level, (number, size) in enumerate(zip(path, tree.sizes, strict=True)):
        if number >= size:
            raise ValueError(f"there is no class {number} in column {level + 2}, which has 0 to {size - 1}")
        if level and tree.parents[level - 1][number] != path[level - 1]:
            parent = tree.parents[level - 1][number]
            raise ValueError(f"class {number} of column {level + 2} lies below {parent} in the label tree")
    if given in ("absent", "unused"):
        return path, tree.levels
    number, starts = int(cells[-1]), list(accumulate(tree.sizes, initial=0))
    depth = bisect_right(starts, number)
    if depth > tree.levels:
        raise ValueError(f"there is no class {number} among the {starts[-1]} of all levels in column 5")
    if given == "checked" and (shown := number - starts[depth - 1]) != path[depth - 1]:
        raise ValueError(
            f"{number} in column 5 is class {shown} of column {depth + 1} (?given=range reads its level only)"
        )
    return path, depth


def read_tree(path: Path) -> LabelTree:
    """A label tree without names: JSON, a list of [fine, subordinate, basic], a fine class each, from 0.

    Raises:
        DataError: if the file is missing, or no such list, or a class has two parents.
    """
    expected = "a JSON list of [fine, subordinate, basic] classes from 0, one for each fine class"
    entries = _load(path, expected)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} is {_shown(entries)}, expected {expected}; copy the file again")
    above: tuple[dict[int, int], dict[int, int]] = ({}, {})  # Parents of fine and of subordinate classes.
    for index, entry in enumerate(entries):
        if not (isinstance(entry, list) and len(entry) == 3 and all(type(n) is int for n in entry)):
            raise DataError(f"{path}, entry {index}: got {_shown(entry)}, expected {expected}")
        fine, middle, basic = entry
        if fine in above[0]:
            raise DataError(f"{path}, entry {index}: fine class {fine} is there twice, expected {expected}")
        above[0][fine] = middle
        if above[1].setdefault(middle, basic) != basic:
            raise DataError(
                f"{path}, entry {index}: subordinate class {middle} lies below {basic} and, in another entry,"
                f" below {above[1][middle]}; expected {expected}"
            )
    sizes = []
    for level, classes in (
        ("basic", set(above[1].values())),
        ("subordinate", {*above[1]}),
        ("fine", above[0]),
    ):
        if {*classes} != set(range(len(classes))):
            raise DataError(
                f"{path}: the {len(classes)} {level} classes are not 0 to {len(classes) - 1}; expected"
                f" {expected}"
            )
        sizes.append(len(classes))
    parents = tuple(tuple(table[number] for number in sorted(table)) for table in reversed(above))
    return LabelTree(tuple(sizes), parents)


def read_names(path: Path, count: int) -> tuple[str, ...]:
    """The names of the classes of a level: JSON, an object {"0": "dog", ...}.

    Args:
        path: of the file.
        count: classes of the level.

    Raises:
        DataError: if the file is missing, or no such object of so many names.
    """
    expected = f'a JSON object of {count} names, from "0" to "{count - 1}"'
    names = _load(path, expected)
    if not isinstance(names, dict) or {*names} != {str(number) for number in range(count)}:
        raise DataError(f"{path} is {_shown(names)}, expected {expected}; take it from the tree's release")
    if strange := [name for name in names.values() if not (isinstance(name, str) and name.strip())]:
        raise DataError(f"{path}: got the name {_shown(strange[0])}, expected {expected}; copy it again")
    return tuple(names[str(number)] for number in range(count))


def class_folders(images: ImageList, count: int) -> list[str]:
    """The folder of each fine class, by the images of a list; "" for a class without an image."""
    folders = [""] * count
    for file, fine in zip(images.files, images.paths[:, -1].tolist(), strict=True):
        folders[fine] = folders[fine] or file.rpartition("/")[0].rpartition("/")[2]
    return folders


def _load(path: Path, expected: str) -> object:
    text = read_text(require(path, expected, HOME))
    try:
        loaded: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}; expected {expected}") from error
    return loaded


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + " ..."
