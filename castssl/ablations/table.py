"""A study's table: mean and standard deviation over seeds, as Markdown and CSV, with every cell's command."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from castssl.ablations.engine import OUTPUT, last_words, seconds_of
from castssl.ablations.grid import SEED, Cell, Study
from castssl.errors import PluginError
from castssl.evaluation.report import metric
from castssl.files import atomic_write
from castssl.installer import install

REFERENCES = ("untrained", "majority", "chance")
Cost = Mapping[str, float]
"""Of a cell's encoder, such as GFLOPs and ms."""


class Spread(NamedTuple):
    """Of one quantity over seeds."""

    mean: float
    deviation: float
    """Sample standard deviation; not a number for one seed."""
    seeds: int

    def shown(self, name: str) -> str:
        """As :mod:`castssl.evaluation.report` prints it."""
        scale = metric(name).scale
        mean, deviation = scale * self.mean, scale * self.deviation
        return f"{mean:.1f}" if self.seeds < 2 or math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}"


@dataclass(frozen=True)
class Row:
    """The cells that differ in their seed only."""

    values: tuple[str, ...]
    results: Mapping[str, Spread]
    cost: Cost
    finished: int
    cells: int


def cell_results(cell: Cell, out: Path) -> dict[str, float] | None:
    """The results of a cell's runs after training, a later run's first; None if one is not finished."""
    every = [step.results(out) for step in cell.steps]
    if None in every:
        return None
    return {name: value for results in every for name, value in (results or {}).get("trained", {}).items()}


def references(cells: Sequence[Cell], out: Path) -> dict[str, dict[str, Spread]]:
    """Results without training, over all finished cells; equal ones have no deviation."""
    by_kind: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        for step in cell.steps:
            for kind, values in (step.results(out) or {}).items():
                for name, value in values.items() if kind in REFERENCES else ():
                    by_kind.setdefault(kind, {}).setdefault(name, []).append(value)

    def of(values: Sequence[float]) -> Spread:
        return spread(values) if len(set(values)) > 1 else Spread(values[0], math.nan, len(values))

    return {kind: {name: of(v) for name, v in values.items()} for kind, values in by_kind.items()}


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


def rows(study: Study, out: Path, costs: Mapping[tuple[str, ...], Cost]) -> list[Row]:
    """One row for each combination of values but the seed, in the grid's order."""
    grouped: dict[tuple[str, ...], list[Cell]] = {}
    for cell in study.cells():
        grouped.setdefault(cell.row, []).append(cell)
    table_rows = []
    for values, cells in grouped.items():
        results = [result for cell in cells if (result := cell_results(cell, out)) is not None]
        names = [name for name in study.show or _names(results) if any(name in result for result in results)]
        spreads = {name: spread([result[name] for result in results if name in result]) for name in names}
        table_rows.append(Row(values, spreads, costs.get(values, {}), len(results), len(cells)))
    return table_rows


def _names(results: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result))


def keys(study: Study) -> list[str]:
    """The grid's keys but the seed: the first columns."""
    return [key for key in study.grid if key.rpartition(".")[2] != SEED]


def columns(table_rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The names of the results, and of the costs."""
    names = list(dict.fromkeys(name for row in table_rows for name in row.results))
    return names, list(dict.fromkeys(name for row in table_rows for name in row.cost))


def markdown(study: Study, out: Path, table_rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The table with its references, then what failed, then the command of every cell."""
    names, costs = columns(table_rows)
    lines = [f"# {study.title}", ""]
    lines += _line([*keys(study), *names, *costs, "seeds"], head=True)
    for row in table_rows:
        seeds = str(row.finished) if row.finished == row.cells else f"{row.finished} of {row.cells}"
        cells = _shown(row.results, names)
        lines += _line([*row.values, *cells, *(_number(row.cost.get(name)) for name in costs), seeds])
    for kind, values in references(study.cells(), out).items():
        padding = [""] * (len(keys(study)) - 1)
        cells = _shown(values, names)
        lines += _line([f"*{kind}*", *padding, *cells, *("" for _ in costs), ""])
    lines += [
        "",
        "Shares in %; mean ± sample standard deviation over seeds.",
        *(line for note in notes for line in ("", note)),
        *_failures(study, out),
        "",
        "## Commands",
        "",
    ]
    return "\n".join([*lines, "```bash", *commands(study, out), "```", ""])


def _shown(values: Mapping[str, Spread], names: Sequence[str]) -> list[str]:
    return [values[name].shown(name) if name in values else "–" for name in names]


def commands(study: Study, out: Path) -> list[str]:
    """Each run's exact command, once."""
    every = [step.command(out, ["python"]) for cell in study.cells() for step in cell.steps]
    return list(dict.fromkeys(shlex.join(command) for command in every))


def comma_separated(study: Study, out: Path) -> str:
    """One line a cell: its values, state, results, seconds and commands."""
    cells = study.cells()
    results = [cell_results(cell, out) for cell in cells]
    names = _names([result for result in results if result])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*study.grid, "finished", *names, "seconds", "command"])
    for cell, result in zip(cells, results, strict=True):
        seconds = sum(seconds_of(step.folder(out)) for step in cell.steps)
        values = [(result or {}).get(name, "") for name in names]
        command = " && ".join(shlex.join(step.command(out, ["python"])) for step in cell.steps)
        writer.writerow([*cell.values.values(), result is not None, *values, round(seconds, 1), command])
    return text.getvalue()


def _failures(study: Study, out: Path) -> list[str]:
    lines: list[str] = []
    for cell in study.cells():
        begun = [step for step in cell.steps if step.folder(out).is_dir() and step.results(out) is None]
        for step in begun[:1]:
            named = ", ".join(f"{key}={value}" for key, value in cell.values.items())
            lines += ["", f"Not finished: {named}; the end of {step.folder(out) / OUTPUT}:", "", "```text"]
            lines += [last_words(step.folder(out)), "```"]
    return lines


def _line(cells: Sequence[str], *, head: bool = False) -> list[str]:
    line = "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    return [line, "|" + " --- |" * len(cells)] if head else [line]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def draw(title: str, table_rows: Sequence[Row], path: Path) -> Path:
    """Write a PNG: a panel for each result (mean, standard deviation over seeds) and for each cost.

    Raises:
        PluginError: if matplotlib is not installed; with the command.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PluginError(f"a study's chart needs matplotlib: {install('matplotlib')}") from error
    names, costs = columns(table_rows)
    labels = [", ".join(row.values) or "all" for row in table_rows]
    panels = max(1, len(names) + len(costs))
    figure = Figure(figsize=(1.5 + 2.6 * panels, 1.4 + 0.34 * len(table_rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    positions = range(len(table_rows))
    for axis, name in zip(axes, [*names, *costs], strict=False):
        if name in names:
            spreads = [row.results.get(name) for row in table_rows]
            times = metric(name).scale
            means = [times * spread.mean if spread else 0.0 for spread in spreads]
            errors = [times * spread.deviation if spread and spread.seeds > 1 else 0.0 for spread in spreads]
            axis.barh(positions, means, xerr=errors, color="#4477aa", ecolor="#333333", capsize=2)
        else:
            axis.barh(positions, [row.cost.get(name, 0.0) for row in table_rows], color="#bbbbbb")
        axis.set_xlabel(f"{name}, %" if name in names and metric(name).unit == "%" else name)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(positions, labels)
    axes[0].invert_yaxis()
    figure.suptitle(title)
    with atomic_write(path, "picture") as aside:
        figure.savefig(aside, dpi=120, format="png")
    return path
