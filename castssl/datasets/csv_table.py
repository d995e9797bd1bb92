"""Images and labels out of a CSV file: a path, maybe a split, then one column a level, coarse to fine."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

from castssl.contracts import DataSet, Listing
from castssl.datasets.folder import Files, is_image, split_name, stand_ins
from castssl.datasets.text import read_text
from castssl.errors import DataError, NoSplit
from castssl.types import LabelTree

EXAMPLE = "path,split,family,species"
"""A header."""
SEPARATORS = (",", ";", "\t", "|")
"""What may stand between two cells."""
INDEX = ("", "index", "unnamed: 0")
"""How pandas heads the column that counts the rows, in lower case."""
_EXCEL = re.compile(r'"?sep=(.|\\t)"?', re.IGNORECASE)
_Line = tuple[int, list[str]]


class _Row(NamedTuple):
    path: str
    split: str
    labels: tuple[str, ...]


class CsvTable(DataSet):
    """A CSV file of image paths and labels, one column a level.

    The label tree is that of the train rows, or of all rows if none is of train.

    Where all train rows of a class lack the finer label, its finer classes are those of the other rows.

    The first row names the columns: the image's path relative to the file, a column called ``split`` if
    there is one (train, val, test; without it all rows are train), and the levels.  An empty cell means that
    the label is unknown from there on, and gives -1; the coarsest must be known.  Cells are separated by
    commas, semicolons, tabs or bars; a first column without a name that counts the rows, as pandas writes it,
    is left out; for encodings see :func:`castssl.datasets.text.read_text`.

    Raises:
        DataError: if the file is missing or not as described, the split has no row, the first image is not
            there, or the split has a class that the train rows lack.
    """

    location = "/path/to/labels.csv"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        path = Path(location).expanduser()
        if not path.is_file():
            raise DataError(f"there is no table {path}; check the path after the colon")
        rows = _read(path)
        present = {row.split for row in rows}
        word = next((word for word in stand_ins(split) if word in present), None)
        if word is None:
            raise NoSplit(
                f"{path} has no {split} rows: its splits are {', '.join(sorted(present))}; add a column"
                " called split"
            )
        chosen = [row for row in rows if row.split == word]
        if not (path.parent / chosen[0].path).is_file():
            raise DataError(
                f"there is no image {path.parent / chosen[0].path}; the first column of {path} must hold"
                f" paths relative to {path.parent}"
            )
        tree = LabelTree.from_paths(_classes(rows))
        try:
            targets = tree.number([row.labels for row in chosen])
        except DataError as error:
            raise DataError(
                f"the {split} rows of {path} have classes that the train rows lack: {error}; every class"
                " needs a train row"
            ) from error
        return Listing(Files(path.parent, [row.path for row in chosen]), targets, tree)


def _classes(rows: list[_Row]) -> list[tuple[str, ...]]:
    """The label paths that define the classes."""
    trained = [row.labels for row in rows if row.split == "train"]
    known = {path[:end] for path in trained for end in range(1, len(path) + 1) if all(path[:end])}
    open_ended = known - {path[:-1] for path in known}
    others = [row.labels for row in rows if not trained or row.split != "train"]
    finer = [path for path in others if any(path[:end] in open_ended for end in range(1, len(path)))]
    return trained + finer if trained else others


def _read(path: Path) -> list[_Row]:
    lines = _without_index(_cells(path))
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


def _cells(path: Path) -> list[_Line]:
    """The rows that are not empty, with their line numbers, cut where the header has most cells."""
    text = read_text(path).splitlines(keepends=True)
    skipped = 1 if text and _EXCEL.fullmatch(text[0].strip()) else 0
    header = next((line for line in text[skipped:] if line.strip()), "")
    try:
        separator = max(SEPARATORS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
        reader = csv.reader(text[skipped:], delimiter=separator)
        lines = [(reader.line_num + skipped, [cell.strip() for cell in line]) for line in reader]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: {error}; save it as CSV in UTF-8") from error
    return [(number, line) for number, line in lines if any(line)]


def _without_index(lines: list[_Line]) -> list[_Line]:
    """The rows without a first column that only counts them, which pandas writes without a name."""
    header = lines[0][1] if lines else []
    counted = all(line and line[0].isdigit() for _, line in lines[1:])
    if len(header) < 3 or header[0].lower() not in INDEX or not counted:
        return lines
    return [(number, line[1:]) for number, line in lines]


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
