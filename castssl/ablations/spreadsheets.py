"""A study's results as CSV: a line for each cell, and a line for each row and result of the table."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from castssl.ablations.engine import seconds_of
from castssl.ablations.grid import Study
from castssl.ablations.table import Row, available, cell_results, difference, keys
from castssl.evaluation.report import by_importance

SUMMARY = ("result", "mean", "deviation", "seeds", "difference", "low", "high", "pairs")
"""The columns of :func:`summary` after the grid's keys."""


def cells(study: Study, out: Path) -> str:
    """One line per cell: its values, state, results, seconds and commands."""
    every = study.cells()
    results = [cell_results(cell, out) for cell in every]
    names = by_importance(dict.fromkeys(name for result in results for name in result or ()))
    lines: list[Sequence[object]] = [[*study.grid, "finished", *names, "seconds", "command"]]
    for cell, result in zip(every, results, strict=True):
        seconds = sum(seconds_of(step.folder(out)) for step in cell.steps)
        values = [(result or {}).get(name, "") for name in names]
        command = " && ".join(shlex.join(step.command(out, ["python"])) for step in cell.steps)
        lines.append([*cell.values.values(), result is not None, *values, round(seconds, 1), command])
    return _text(lines)


def summary(study: Study, table_rows: Sequence[Row]) -> str:
    """One line for each row of the table and each result or cost; shares are from 0 to 1.

    ``difference``, ``low`` and ``high`` are the paired difference to the first row and its confidence
    interval, see :func:`castssl.ablations.table.difference`.
    """
    lines: list[Sequence[object]] = [[*keys(study), *SUMMARY]]
    for row in table_rows:
        for name in available([row]):
            if name in row.cost:
                lines.append([*row.values, name, row.cost[name], *[""] * (len(SUMMARY) - 2)])
                continue
            found = difference(row, table_rows[0], name) if row is not table_rows[0] else None
            lines.append([*row.values, name, *row.results[name], *(found or [""] * 4)])
    return _text(lines)


def _text(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
