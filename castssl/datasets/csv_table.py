"""Images and labels out of a CSV file: a path, an optional split, and one column per level, coarse to fine.

Or, for images with many labels, one column of label names, separated by :data:`BETWEEN_NAMES` or by a mark
that is given.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from castssl.contracts import DataSet, Listing
from castssl.datasets.file_names import is_image
from castssl.datasets.folder import Files
from castssl.datasets.many_labels import many_labels, multi_hot
from castssl.datasets.split_folders import split_name, stand_ins
from castssl.datasets.text import read_query, read_text, refuse_options
from castssl.errors import DataError, NoSplit
from castssl.labels import LabelTree

EXAMPLE = "path,split,family,species"
"""A header."""
SEPARATORS = (",", ";", "\t", "|")
"""Between two cells."""
BETWEEN_NAMES = "|"
"""Between two labels of an image in a column of label names, unless ``between=`` says otherwise."""
OTHERS = (",", ";")
"""What may stand between two labels in place of it: then the table is refused until that is said."""
INDEX = ("", "index", "unnamed: 0")
"""pandas' names of the column that counts the rows, in lower case."""
_EXCEL = re.compile(r'"?sep=(.|\\t)"?', re.IGNORECASE)


class _Row(NamedTuple):
    path: str
    split: str
    labels: tuple[str, ...]


class CsvTable(DataSet):
    """A CSV file of image paths and labels, one column per level; ``?labels=COLUMN``: many labels per image.

    The label tree is that of the train rows, or of all rows if none is of train.

    Where all train rows of a class lack the finer label, its finer classes are those of the other rows.

    The first row names the columns: the image's path relative to the file, an optional column ``split``
    (train, val, test; without it all rows are train), and the levels.  An empty cell means that the label is
    unknown from there on, and gives -1; the coarsest must be known.  Cells are separated by commas,
    semicolons, tabs or bars; a first column without a name that counts the rows, as pandas writes it, is left
    out; for encodings see :func:`castssl.datasets.text.read_text`.

    With ``csv:/path/to/labels.csv?labels=COLUMN`` that column holds the names of all labels of the image,
    such as ``cat|dog``, or nothing; other columns than the path and ``split`` are left out.  The classes are
    those of the train rows, by alphabet, and a class that is not named is absent.  ``&between=,`` separates
    the names by commas.

    Raises:
        DataError: if the file is missing or not as described, the split has no row, the first image is
            missing, or the split has a class that the train rows lack.
    """

    location = "/path/to/labels.csv"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        base, _, query = location.rpartition("?")
        options = dict(read_query(query)) if base else {}
        column = options.pop("labels", "")
        path = Path(base if column else location).expanduser()
        between = options.pop("between", "")
        if column and options:
            raise DataError(
                f"csv:{location} has the option {min(options)!r}, expected labels=COLUMN and between=MARK"
            )
        if not path.is_file():
            refuse_options(path, ("labels", "between"))
            raise DataError(f"there is no table {path}; check the path after the colon")
        rows = _read(path, column, between)
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
        self.target = "multihot" if column else "path"
        if column and not any(row.labels for row in rows):
            raise DataError(f"{path} has no label in its column {column!r}, expected names such as cat|dog")
        tree = many_labels(_label_names(rows)) if column else LabelTree.from_paths(_classes(rows))
        labels = [row.labels for row in chosen]
        try:
            targets = multi_hot(labels, tree.names[0]) if column else tree.number(labels)
        except DataError as error:
            raise DataError(
                f"the {split} rows of {path} have classes that the train rows lack: {error}; every class"
                " needs a train row"
            ) from error
        return Listing(Files(path.parent, [row.path for row in chosen]), targets, tree)


def _classes(rows: list[_Row]) -> list[tuple[str, ...]]:
    """The label paths that define the classes."""
    trained = [row.labels for row in rows if row.split == "train"]
    if not trained:
        return [row.labels for row in rows]
    complete = {path[:end] for path in trained for end in range(1, len(path) + 1) if all(path[:end])}
    open_ended = complete - {path[:-1] for path in complete}
    others = [row.labels for row in rows if row.split != "train"]
    return trained + [path for path in others if any(path[:end] in open_ended for end in range(1, len(path)))]


def _label_names(rows: list[_Row]) -> list[str]:
    """The classes of images with many labels: those of the train rows, or of all rows if none is of train."""
    trained = [row.labels for row in rows if row.split == "train"] or [row.labels for row in rows]
    return sorted({name for labels in trained for name in labels})


def _lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a table, and the number and the cells of each further line."""
    text = read_text(path).splitlines(keepends=True)
    skipped = 1 if text and _EXCEL.fullmatch(text[0].strip()) else 0
    first = next((line for line in text[skipped:] if line.strip()), "")
    try:
        # The separator that gives the header the most cells.
        separator = max(SEPARATORS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
        reader = csv.reader(text[skipped:], delimiter=separator)
        lines = [(reader.line_num + skipped, [cell.strip() for cell in line]) for line in reader]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: {error}; save it as CSV in UTF-8") from error
    lines = [(number, line) for number, line in lines if any(line)]
    if len(lines) < 2:
        raise DataError(f"{path} has no rows, expected a header such as {EXAMPLE} and a row for each image")
    header, *_ = (line for _, line in lines)
    if len(header) > 2 and header[0].lower() in INDEX and all(line[0].isdigit() for _, line in lines[1:]):
        lines = [(number, line[1:]) for number, line in lines]
        header = header[1:]
    return header, lines[1:]


def _names(cell: str, between: str) -> tuple[str, ...]:
    """The label names in a cell."""
    return tuple(name for name in map(str.strip, cell.split(between)) if name)


def _check_between(path: Path, column: str, cells: Sequence[str]) -> None:
    """Refuse names that may be separated by another mark than :data:`BETWEEN_NAMES`."""
    if any(BETWEEN_NAMES in cell for cell in cells):
        return
    for mark in OTHERS:
        if example := next((cell for cell in cells if mark in cell), ""):
            raise DataError(
                f"{path}, column {column!r}: no cell has {BETWEEN_NAMES!r} between two labels, but"
                f" {example!r} has {mark!r}; write ?labels={column}&between={mark} if that separates labels,"
                f" or &between={BETWEEN_NAMES} if it is part of a name"
            )


def _read(path: Path, names: str, between: str) -> list[_Row]:
    """The rows of a table.

    Args:
        path: of the file.
        names: the column of label names; "" for one column per level.
        between: what separates label names; "" for :data:`BETWEEN_NAMES`.
    """
    header, lines = _lines(path)
    split = next((column for column, name in enumerate(header) if name.lower() == "split"), None)
    levels = [column for column in range(1, len(header)) if column != split]
    if names:
        levels = [column for column in levels if header[column] == names][:1]
        if not levels:
            raise DataError(f"{path} has no column {names!r} of labels: its columns are {', '.join(header)}")
    if not levels or is_image(header[0]):
        raise DataError(
            f"{path} begins with {','.join(header)!r}, expected a header such as {EXAMPLE}: the path, an"
            " optional split, and one column per level, coarse to fine"
        )
    if names and not between:
        _check_between(path, names, [line[levels[0]] for _, line in lines if len(line) == len(header)])
    rows = []
    for number, line in lines:
        where = f"{path}, line {number}"
        if len(line) != len(header):
            raise DataError(f"{where}: {len(line)} cells, expected {len(header)} as above")
        word = "train" if split is None else split_name(line[split])
        if word is None:
            raise DataError(f"{where}: split {line[split or 0]!r}, expected train, val or test")
        labels = tuple(line[column] for column in levels)
        if names:
            labels = _names(labels[0], between or BETWEEN_NAMES)
        elif not labels[0] or any(finer and not label for label, finer in pairwise(labels)):
            raise DataError(
                f"{where}: labels {labels}; a cell may only be empty if all finer ones are, and the coarsest"
                f" must be known; write csv:{path}?labels=COLUMN for any number of labels per image"
            )
        rows.append(_Row(line[0], word, labels))
    return rows
