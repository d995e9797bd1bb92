"""Images and labels out of a CSV file: a path, maybe a split, then one column a level, coarse to fine."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import torch

from castssl.data.folders import Files, NoSplit, is_image, split_name, stand_ins
from castssl.data.listing import Listing, listing
from castssl.errors import DataError
from castssl.types import LabelTree

EXAMPLE = "path,split,family,species"
"""A header."""


class _Row(NamedTuple):
    path: str
    split: str
    labels: tuple[str, ...]


def open_table(path: Path, split: str) -> Listing:
    """The images of a split; the label tree is that of all rows, so that all splits share it.

    The first row names the columns: the image's path relative to the file, a column called ``split`` if
    there is one (train, val, test; without it all rows are train), and the levels.  An empty cell means that
    the label is unknown from there on, and gives -1; the coarsest must be known.

    Raises:
        DataError: if the file is missing or not as described, the split has no row, the first image is not
            there, or a class has two parents.
    """
    rows = _read(path)
    tree = LabelTree.from_paths(row.labels for row in rows)
    numbers = [{name: number for number, name in enumerate(level)} for level in tree.names]
    present = {row.split for row in rows}
    word = next((word for word in stand_ins(split) if word in present), None)
    if word is None:
        raise NoSplit(
            f"{path} has no {split} rows: its splits are {', '.join(sorted(present))}; add a column called"
            " split, or ask for the split that is there"
        )
    chosen = [row for row in rows if row.split == word]
    if not (path.parent / chosen[0].path).is_file():
        raise DataError(
            f"there is no image {path.parent / chosen[0].path}; the first column of {path} must hold paths"
            f" relative to {path.parent}"
        )
    targets = [
        [numbers[level][name] if name else -1 for level, name in enumerate(row.labels)] for row in chosen
    ]
    return listing(Files(path.parent, [row.path for row in chosen]), torch.tensor(targets), tree)


def _read(path: Path) -> list[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [(number, [cell.strip() for cell in line]) for number, line in enumerate(csv.reader(file), 1)]
    lines = [(number, line) for number, line in lines if any(line)]
    if len(lines) < 2:
        raise DataError(f"{path} has no rows, expected a header such as {EXAMPLE} and a row for each image")
    header = lines[0][1]
    at = next((column for column, name in enumerate(header) if name.lower() == "split"), None)
    levels = [column for column in range(1, len(header)) if column != at]
    if not levels or is_image(header[0]):
        raise DataError(
            f"{path} begins with {','.join(header)!r}, expected a header such as {EXAMPLE}: the path, maybe"
            " the split, and one column a level, coarse to fine"
        )
    for number, line in lines[1:]:
        if len(line) != len(header):
            raise DataError(f"{path}, line {number}: {len(line)} cells, expected {len(header)} as above")
    return [
        _row(f"{path}, line {number}", line, "train" if at is None else line[at], levels)
        for number, line in lines[1:]
    ]


def _row(where: str, line: list[str], split: str, levels: list[int]) -> _Row:
    word = split_name(split)
    if word is None:
        raise DataError(f"{where}: split {split!r}, expected train, val or test")
    labels = tuple(line[column] for column in levels)
    known = sum(map(bool, labels))
    if not known or not all(labels[:known]):
        raise DataError(
            f"{where}: labels {labels}; a cell may only be empty if all finer ones are, and the coarsest must"
            " be known"
        )
    return _Row(line[0], word, labels)
