"""The runs and studies of some folders, as their files are: unfinished and damaged ones, too."""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from castssl.ablations.grid import is_seed
from castssl.ablations.study import MARK
from castssl.errors import ConfigError
from castssl.training.history import History, read_history
from castssl.training.runs import RunSummary, columns, number, summaries

TABLE, CELLS = "table.md", "cells.csv"
"""Files of a study."""
SEEDED = re.compile(r"-seed=[^-]*|-[0-9a-f]{8}$")
"""What differs in the names of a study's folders of one row."""
SHORT = 16
"""Characters of a name that is shown as it is."""
BLANK = "default"
"""The text of a setting without a value."""
NOT_COMPARED = ("out",)
"""Settings that differ between any two runs."""
Value = TypeVar("Value")


class Run(NamedTuple):
    """A run, and what it is called beside others."""

    name: str
    short: str
    """The name, or what differs if that is shorter; beside a curve and above a column."""
    title: str
    """The name with the settings that differ between the runs; or a row of a study, with the seed."""
    label: str
    """What it is called with the other runs of its color."""
    color: int
    """Runs of one row of a study have one color."""
    summary: RunSummary
    history: History
    columns: Mapping[str, Mapping[str, float]]
    """Results by the column of the final table."""

    @property
    def trained(self) -> Mapping[str, float]:
        """The results after training, or so far."""
        return self.columns.get("trained") or self.summary.results


class StudyRow(NamedTuple):
    """The cells of a study that differ in their seed only."""

    label: str
    results: Mapping[str, list[float]]
    """The values of its finished cells by the name of the result."""
    folders: Sequence[str]
    """Names of the folders of its runs."""


class Study(NamedTuple):
    """The tables of a study."""

    folder: Path
    text: str
    """Its Markdown; empty if no cell has finished."""
    rows: Sequence[StudyRow]


class Gathered(NamedTuple):
    """Everything that a report shows."""

    runs: Sequence[Run]
    studies: Sequence[Study]
    remarks: Sequence[str] = ()
    """On runs and folders that cannot be read."""


def gather(paths: Sequence[Path]) -> Gathered:
    """Read the runs and studies that folders are or hold, each once.

    Raises:
        ConfigError: if a folder is missing or holds neither.
    """
    studies: dict[Path, Study] = {}
    runs: dict[Path, RunSummary] = {}
    remarks: list[str] = []
    for path in paths:
        here, unread = summaries(path)
        tables = [folder for folder in (path, *_inside(path)) if _is_study(folder)]
        if not here and not tables:
            raise ConfigError(
                "; ".join(
                    [
                        f"{path} holds no run and no study: no folder with config.json and log.jsonl, and"
                        f" none with {TABLE} and {CELLS}; give another one, such as runs/moco_in1k-demo-0",
                        *unread,
                    ]
                )
            )
        for run in here:
            runs.setdefault(run.folder.resolve(), run)
        remarks += unread
        studies |= {folder.resolve(): read_study(folder) for folder in tables}
    found = [study for study in studies.values() if study.rows]
    return Gathered(_runs(list(runs.values()), found), found, list(dict.fromkeys(remarks)))


def _inside(folder: Path) -> list[Path]:
    """What a folder holds; nothing if it cannot be read, on which :func:`summaries` has a remark."""
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _is_study(folder: Path) -> bool:
    # Path.is_file raises PermissionError.
    cells, mark, table = (os.path.isfile(folder / name) for name in (CELLS, MARK, TABLE))
    return cells and (mark or table)


def _runs(summaries: Sequence[RunSummary], studies: Sequence[Study]) -> list[Run]:
    run_names = names([one.folder for one in summaries])
    differing = differences(summaries)
    settings = [
        ", ".join(f"{key}={shown(one.settings.get(key))}" for key in differing[:3]) for one in summaries
    ]
    rows = _rows([one.folder for one in summaries], studies)
    titles = [
        f"{row}, seed {shown(one.settings.get('seed'))}" if row else f"{name}: {words}" if words else name
        for name, words, row, one in zip(run_names, settings, rows, summaries, strict=True)
    ]
    equal = Counter(titles)  # Of two runs of a row with one seed, such as those of two recipes.
    titles = [f"{t} ({name})" if equal[t] > 1 else t for t, name in zip(titles, run_names, strict=True)]
    colors: dict[str, int] = {}
    runs: list[Run] = []
    for name, summary, row, title in zip(run_names, summaries, rows, titles, strict=True):
        words = settings[len(runs)]
        plain = len(name) <= SHORT or not words or len(set(settings)) < len(settings)
        short = name if plain else words
        color = colors.setdefault(row or f"run {name}", len(colors))
        history = read_history(summary.folder)
        known = history.starts and "measured_with" in history.starts[-1]
        values = columns(summary.folder, history.settings if known else None)
        runs.append(Run(name, short, title, row or title, color, summary, history, values))
    return runs


def _rows(folders: Sequence[Path], studies: Sequence[Study]) -> list[str]:
    """The row of a study's table that each run is of; of several rows, the folder without seed; "" of none.

    Rows of one name whose runs are in different folders have the folder in their name.
    """
    places = by_folder(zip(folders, range(len(folders)), strict=True))
    found: dict[int, set[str]] = {}
    for study in studies:
        for row in study.rows:
            for name in row.folders:
                if (run := run_of(study, name, places)) is not None:
                    found.setdefault(run, set()).add(row.label)
    named = {
        run: labels.pop() if len(labels) == 1 else SEEDED.sub("", _absolute(folders[run]).name)
        for run, labels in found.items()
    }
    parents = {run: _absolute(folders[run]).parent for run in named}
    above = list(dict.fromkeys(parents.values()))
    called = dict(zip(above, names(above), strict=True))
    of_row: dict[str, set[Path]] = {}
    for run, label in named.items():
        of_row.setdefault(label, set()).add(parents[run])
    for run, label in named.items():
        named[run] = f"{label} ({called[parents[run]]})" if len(of_row[label]) > 1 else label
    return [named.get(run, "") for run in range(len(folders))]


def by_folder(values: Iterable[tuple[Path, Value]]) -> dict[Path, Value]:
    """Values of folders for :func:`run_of`: by their paths as given, and without symbolic links."""
    pairs = [(place, value) for folder, value in values for place in (_absolute(folder), folder.resolve())]
    return dict(pairs)


def run_of(study: Study, name: str, runs: Mapping[Path, Value]) -> Value | None:
    """The run of a study's table with a folder's name: in the study's folder, or the nearest one above.

    A folder of this name elsewhere is the run of another study.

    Args:
        study: its tables are in its folder, or in one below.
        name: of :attr:`StudyRow.folders`.
        runs: of :func:`by_folder`.
    """
    for folder in (_absolute(study.folder), study.folder.resolve()):
        for above in (folder, *folder.parents):
            if above / name in runs:
                return runs[above / name]
    return None


def names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; where several have one name, as much of the end of the path as no other one has."""
    paths = [_absolute(folder).parts for folder in folders]
    counts = Counter(path[-length:] for path in paths for length in range(1, len(path) + 1))
    ends = (next((path[-n:] for n in range(1, len(path)) if counts[path[-n:]] == 1), path) for path in paths)
    return [os.path.join(*end) for end in ends]


def _absolute(folder: Path) -> Path:
    return Path(os.path.abspath(folder))


def differences(summaries: Sequence[RunSummary]) -> list[str]:
    """The settings that differ between runs, in the order of their files."""
    names = dict.fromkeys(name for run in summaries for name in run.settings if name not in NOT_COMPARED)
    return [name for name in names if len({repr(run.settings.get(name)) for run in summaries}) > 1]


def shown(value: Any, blank: str = BLANK) -> str:
    """A setting as text.

    Args:
        value: of a JSON file.
        blank: for what is not set, and not ``none``, which is a value of some flags.
    """
    if value is None or value in ("", []):
        return blank
    return " ".join(map(shown, value)) if isinstance(value, list) else str(value)


def read_study(folder: Path) -> Study:
    """The tables in a folder of :func:`castssl.ablations.study.write`; what is damaged is left out."""
    text = ""
    with suppress(OSError):
        text = (folder / TABLE).read_text(encoding="utf-8", errors="replace")
    rows: dict[str, StudyRow] = {}
    for cell in _cells(folder / CELLS):
        keys = cell[: _place(cell, "finished")]
        label = ", ".join(value for key, value in keys if not is_seed(key)) or "all"
        row = rows.setdefault(label, StudyRow(label, {}, []))
        results, folders = dict(row.results), [*row.folders, *_folders(dict(cell).get("command", ""))]
        for name, value in cell[len(keys) + 1 : _place(cell, "seconds")]:
            with suppress(ValueError):
                if (found := number(float(value))) is not None:
                    results[name] = [*results.get(name, []), found]
        rows[label] = StudyRow(label, results, folders)
    return Study(folder, text, list(rows.values()))


def _cells(path: Path) -> Iterator[list[tuple[str, str]]]:
    """The lines of a CSV file as names and values; what follows damage is left out."""
    with suppress(OSError, csv.Error), path.open(encoding="utf-8", errors="replace", newline="") as file:
        for line in csv.DictReader(file, restval=""):
            yield [(name, value) for name, value in line.items() if isinstance(name, str)]


def _place(cell: Sequence[tuple[str, str]], column: str) -> int:
    return next((i for i, (name, _) in enumerate(cell) if name == column), len(cell))


def _folders(command: str) -> Iterable[str]:
    """The folders that a cell's commands name after ``--out``."""
    with suppress(ValueError):
        words = shlex.split(command)
        return [Path(after).name for word, after in pairwise(words) if word == "--out" and Path(after).name]
    return []
