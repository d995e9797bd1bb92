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
        """For people, as :mod:`castssl.evaluation.report` has it."""
        scale = metric(name).scale
        mean, deviation = scale * self.mean, scale * self.deviation
        return f"{mean:.1f}" if self.seeds < 2 or math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}"


@dataclass(frozen=True)
class Row:
    """The cells that differ in their seed only."""

    values: tuple[str, ...]
    found: Mapping[str, Spread]
    cost: Cost
    finished: int
    cells: int


def results(cell: Cell, out: Path) -> dict[str, float] | None:
    """What a cell's runs found after training, the last run's word counting; None if one is not finished."""
    every = [step.results(out) for step in cell.steps]
    if None in every:
        return None
    return {name: value for found in every for name, value in (found or {}).get("trained", {}).items()}


def references(cells: Sequence[Cell], out: Path) -> dict[str, dict[str, Spread]]:
    """What needs no training, over all finished cells; what is the same in all of them has no deviation."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        for step in cell.steps:
            for kind, values in (step.results(out) or {}).items():
                for name, value in values.items() if kind in REFERENCES else ():
                    found.setdefault(kind, {}).setdefault(name, []).append(value)

    def of(values: Sequence[float]) -> Spread:
        return spread(values) if len(set(values)) > 1 else Spread(values[0], math.nan, len(values))

    return {kind: {name: of(v) for name, v in values.items()} for kind, values in found.items()}


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


def rows(study: Study, out: Path, costs: Mapping[tuple[str, ...], Cost]) -> list[Row]:
    """One row for each combination of values but the seed, in the grid's order."""
    grouped: dict[tuple[str, ...], list[Cell]] = {}
    for cell in study.cells():
        grouped.setdefault(cell.row, []).append(cell)
    made = []
    for values, cells in grouped.items():
        found = [marks for cell in cells if (marks := results(cell, out)) is not None]
        names = [name for name in study.show or _names(found) if any(name in marks for marks in found)]
        spreads = {name: spread([marks[name] for marks in found if name in marks]) for name in names}
        made.append(Row(values, spreads, costs.get(values, {}), len(found), len(cells)))
    return made


def _names(found: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for marks in found for name in marks))


def keys(study: Study) -> list[str]:
    """The grid's keys but the seed: the first columns."""
    return [key for key in study.grid if key.rpartition(".")[2] != SEED]


def columns(made: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The names of what was found, and of what it costs."""
    found = list(dict.fromkeys(name for row in made for name in row.found))
    return found, list(dict.fromkeys(name for row in made for name in row.cost))


def markdown(study: Study, out: Path, made: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The table with its references, then what failed, then the command of every cell."""
    found, costs = columns(made)
    lines = [f"# {study.title}", ""]
    lines += _line([*keys(study), *found, *costs, "seeds"], head=True)
    for row in made:
        seeds = str(row.finished) if row.finished == row.cells else f"{row.finished} of {row.cells}"
        cells = _shown(row.found, found)
        lines += _line([*row.values, *cells, *(_number(row.cost.get(name)) for name in costs), seeds])
    for kind, values in references(study.cells(), out).items():
        padding = [""] * (len(keys(study)) - 1)
        cells = _shown(values, found)
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
    """One line a cell: its values, its state, what it found, how long it took, its last command."""
    cells = study.cells()
    marks = [results(cell, out) for cell in cells]
    names = _names([found for found in marks if found])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*study.grid, "finished", *names, "seconds", "command"])
    for cell, found in zip(cells, marks, strict=True):
        seconds = sum(seconds_of(step.folder(out)) for step in cell.steps)
        values = [(found or {}).get(name, "") for name in names]
        command = " && ".join(shlex.join(step.command(out, ["python"])) for step in cell.steps)
        writer.writerow([*cell.values.values(), found is not None, *values, round(seconds, 1), command])
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


def draw(title: str, made: Sequence[Row], path: Path) -> Path:
    """Write a PNG: a panel for each result (mean, standard deviation over seeds) and for each cost.

    Raises:
        PluginError: if matplotlib is not installed; with the command.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PluginError(f"a study's picture needs matplotlib: {install('matplotlib')}") from error
    found, costs = columns(made)
    names = [", ".join(row.values) or "all" for row in made]
    panels = max(1, len(found) + len(costs))
    figure = Figure(figsize=(1.5 + 2.6 * panels, 1.4 + 0.34 * len(made)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    places = range(len(made))
    for axis, name in zip(axes, [*found, *costs], strict=False):
        if name in found:
            spreads = [row.found.get(name) for row in made]
            times = metric(name).scale
            means = [times * spread.mean if spread else 0.0 for spread in spreads]
            errors = [times * spread.deviation if spread and spread.seeds > 1 else 0.0 for spread in spreads]
            axis.barh(places, means, xerr=errors, color="#4477aa", ecolor="#333333", capsize=2)
        else:
            axis.barh(places, [row.cost.get(name, 0.0) for row in made], color="#bbbbbb")
        axis.set_xlabel(f"{name}, %" if name in found and metric(name).unit == "%" else name)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(places, names)
    axes[0].invert_yaxis()
    figure.suptitle(title)
    with atomic_write(path, "picture") as aside:
        figure.savefig(aside, dpi=120, format="png")
    return path
