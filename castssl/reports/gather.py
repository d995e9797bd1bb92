"""The runs and studies of some folders, as their files are: unfinished and damaged ones, too."""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

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
    names = _names([one.folder for one in summaries])
    differing = differences(summaries)
    settings = [
        ", ".join(f"{key}={shown(one.settings.get(key))}" for key in differing[:3]) for one in summaries
    ]
    rows = _rows(studies)
    colors: dict[str, int] = {}
    runs: list[Run] = []
    for name, summary in zip(names, summaries, strict=True):
        row, words = rows.get(summary.folder.name), settings[len(runs)]
        plain = len(name) <= SHORT or not words or len(set(settings)) < len(settings)
        short = name if plain else words
        title = f"{name}: {words}" if words else name
        if row:
            title = f"{row}, seed {shown(summary.settings.get('seed'))}"
        color = colors.setdefault(row or f"run {name}", len(colors))
        history = read_history(summary.folder)
        runs.append(Run(name, short, title, row or title, color, summary, history, columns(summary.folder)))
    return runs


def _rows(studies: Sequence[Study]) -> dict[str, str]:
    """The row of a study's table by the name of a run's folder; of several rows, the folder without seed."""
    found: dict[str, set[str]] = {}
    for study in studies:
        for row in study.rows:
            for name in row.folders:
                found.setdefault(name, set()).add(row.label)
    return {
        name: labels.pop() if len(labels) == 1 else SEEDED.sub("", name) for name, labels in found.items()
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or what differs of their paths where two are equal."""
    paths = [os.path.abspath(folder) for folder in folders]
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    above = os.path.commonpath(paths)
    return [os.path.relpath(path, above) for path in paths]


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
        return [Path(after).name for word, after in pairwise(words) if word == "--out"]
    return []
