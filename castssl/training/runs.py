"""Run folders as rows of a table: their state, how far they are, and what they reached."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from castssl import config
from castssl.errors import ConfigError, DataError
from castssl.run_lock import in_use
from castssl.system_errors import explain
from castssl.training import logging

State = Literal["running", "stopped", "finished", "diverged"]
RESULTS = "results.json"
ONCE = "once.json"
LATEST = 253_402_300_800.0
"""The year 10,000 in seconds since 1970; the time of a line is earlier."""
NAMED = 5
"""Runs in a sentence on several ones, at most."""
DEEPEST = 32
"""Lists and objects inside one another that a run writes, at most."""


@dataclass(frozen=True)
class RunSummary:
    """What the files of a run's folder say.

    Attributes:
        folder: of the run.
        state: ``running`` if a process holds its lock; ``finished`` with results; ``diverged`` if its latest
            start ended at a loss that is not finite; ``stopped`` otherwise, also after a kill.
        recipe: the file's name, without its ending.
        settings: those of ``config.json``; none if it is damaged.
        step: optimizer steps done.
        epoch: epochs done, as the latest report has it.
        rate: images per second of that report; 0 if there is none.
        began: seconds since 1970 of the first start.
        updated: of the last line of the log.
        results: of a finished run those after training, else the latest one of each name with the evaluation
            settings of the latest start.
        measured_with: these settings as flags that begin with a space, such as ``" --window 512"``; "" for
            the defaults, see :func:`castssl.config.measured_with`.
    """

    folder: Path
    state: State
    recipe: str
    settings: Mapping[str, Any]
    step: int
    epoch: float
    rate: float
    began: float
    updated: float
    results: Mapping[str, float]
    measured_with: str = ""


def find(folder: Path, remarks: list[str] | None = None) -> Iterator[Path]:
    """The run folders that are, or lie below, a folder, by name; each once.

    Symbolic links are followed, except those in a run's folder, which may lead to a data set.

    Args:
        folder: where the search begins.
        remarks: gets a sentence for each folder that cannot be read.

    Raises:
        ConfigError: if there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; give one that holds runs, such as runs")
    yield from sorted(path for path in _folders(folder, [] if remarks is None else remarks) if _is_run(path))


def _is_run(path: Path) -> bool:
    # Path.is_file raises PermissionError.
    return os.path.isfile(path / logging.FILE) and os.path.isfile(path / config.FILE)


def _folders(folder: Path, remarks: list[str]) -> Iterator[Path]:
    """A folder and all below it, each once; a folder that also has a path without links has that path."""
    seen: set[str] = set()
    tops = [folder]

    def refused(error: OSError) -> None:
        remarks.append(f"{error.filename}: the folder cannot be read ({error.strerror}); it is left out")

    while tops:
        run: Path | None = None
        for here, names, _ in os.walk(tops.pop(0), onerror=refused):
            real = os.path.realpath(here)
            if real in seen:
                names.clear()
                continue
            seen.add(real)
            yield (path := Path(here))
            if run is None or not path.is_relative_to(run):
                run = path if _is_run(path) else None
            if run is None:
                tops += [link for link in (Path(here, name) for name in sorted(names)) if link.is_symlink()]


def summaries(folder: Path) -> tuple[list[RunSummary], list[str]]:
    """The runs of :func:`find`, and a remark on each run or folder that cannot be read.

    Raises:
        ConfigError: if there is no such folder.
    """
    remarks: list[str] = []

    def read(path: Path) -> Iterator[RunSummary]:
        try:
            yield summarize(path)
        except DataError as error:
            remarks.append(f"{error}; the run is left out")

    return [run for path in find(folder, remarks) for run in read(path)], remarks


def summarize(folder: Path) -> RunSummary:
    """Read a run's folder; lines of its log and files that a power cut has damaged do not count.

    Args:
        folder: one of :func:`find`.

    Raises:
        DataError: if the system refuses to read the log.
    """
    lines = list(log_lines(folder / logging.FILE))
    starts = [line for line in lines if line.get("event") == "start"]
    reports = [line for line in lines if "event" not in line]
    rated = [line for line in reports if "images_per_second" in line]
    trained = _results(folder)
    settings_of = evaluation_settings(lines)
    current = settings_of[-1] if settings_of else ""
    measured = [
        line
        for line, own in zip(lines, settings_of, strict=True)
        if own == current and not {"event", "images_per_second"} & line.keys()
    ]
    latest = {name: value for line in measured for name, value in line.items()}
    argv = starts[-1].get("argv") if starts else None
    settings: Mapping[str, Any] = {}
    with suppress(ConfigError, RecursionError):
        found = config.load_plain(folder / config.FILE)
        settings = found if _shallow(found) else {}
    return RunSummary(
        folder=folder,
        state=_state(folder, starts, finished=trained is not None),
        recipe=Path(str(argv[0])).stem if isinstance(argv, list) and argv else "",
        settings=settings,
        step=int(max((number(line.get("step")) or 0 for line in reports), default=0)),
        epoch=number(rated[-1].get("epoch")) or 0.0 if rated else 0.0,
        rate=number(rated[-1]["images_per_second"]) or 0.0 if rated else 0.0,
        began=float(lines[0]["time"]) if lines else 0.0,
        updated=float(lines[-1]["time"]) if lines else 0.0,
        results=_numbers(latest if trained is None else trained),
        measured_with=current,
    )


def measured_apart(runs: Sequence[tuple[str, RunSummary]]) -> list[str]:
    """A sentence for each set of evaluation settings, if runs with results have several of them.

    Args:
        runs: each with its name.
    """
    groups: dict[str, list[str]] = {}
    for name, run in runs:
        if run.results:
            groups.setdefault(run.measured_with, []).append(name)
    if len(groups) < 2:
        return []
    sentences = ["results with different evaluation settings are not comparable"]
    for settings, names in groups.items():
        further = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        known = settings or " the defaults, or with settings that an earlier version did not log"
        sentences.append(f"evaluated with{known}: {', '.join(names[:NAMED])}{further}")
    return sentences


def evaluation_settings(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The evaluation settings of each line of a log, as :attr:`RunSummary.measured_with`.

    Results of different settings, such as those of another ``--val``, cannot be compared.  Lines of a start
    that does not report its settings, as those of earlier versions, have those of the latest start.
    """
    found: list[str | None] = []
    settings: str | None = None
    for line in lines:
        if line.get("event") == "start":
            reported = line.get("measured_with")
            settings = reported if isinstance(reported, str) else None
        found.append(settings)
    return [(settings if own is None else own) or "" for own in found]


def _state(folder: Path, starts: list[dict[str, Any]], *, finished: bool) -> State:
    if in_use(folder):
        return "running"
    if finished:
        return "finished"
    began = float(starts[-1]["time"]) if starts else 0.0
    diverged = any(path.stat().st_mtime >= began for path in folder.glob("diverged*.txt"))
    return "diverged" if diverged else "stopped"


def log_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log; those that a kill or a power cut has damaged, or no run writes, are left out.

    Raises:
        DataError: if the system refuses to read it.
    """
    try:
        with path.open("rb") as file:
            yield from filter(None, map(_line, file))
    except OSError as error:
        if explain(error):
            raise  # The fault is not the file's.
        raise DataError(f"{path}: the log cannot be read ({error.strerror})") from error


def _line(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        values = json.loads(line)
        if isinstance(values, dict) and _shallow(values):
            time = number(values.get("time"))
            return values if time is not None and 0 <= time < LATEST else None
    return None


def _shallow(value: object, left: int = DEEPEST) -> bool:
    """True if no more than so many lists and objects are inside one another, as recursive code needs it."""
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return left > 0 and all(_shallow(entry, left - 1) for entry in inner)


def number(value: object) -> float | None:
    """A finite number of a JSON file; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON has integers of any size.
        return None


def columns(folder: Path, measured_with: str | None = None) -> dict[str, dict[str, float]]:
    """The results of a run's final table by column; before that those that it keeps, such as ``untrained``.

    What is missing or damaged is left out.

    Args:
        folder: of the run.
        measured_with: before the end of training only results of these evaluation settings count; None takes
            the latest one of a column with several settings.
    """
    for name in (RESULTS, ONCE):
        with suppress(OSError, ValueError, RecursionError, AttributeError):
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            return {
                column: _numbers(values)
                for heading, values in content.items()
                for column in [heading.partition(" --")[0]]  # Without the flags of measured_with.
                if isinstance(values, dict)
                if name == RESULTS or measured_with in (None, heading[len(column) :])
            }
    return {}


def _results(folder: Path) -> Mapping[str, Any] | None:
    with suppress(OSError, ValueError, RecursionError, AttributeError):
        trained = json.loads((folder / RESULTS).read_text(encoding="utf-8")).get("trained")
        return trained if isinstance(trained, dict) else {}
    return None


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    found = {name: number(value) for name, value in values.items() if name not in ("time", "step")}
    return {name: value for name, value in found.items() if value is not None}
