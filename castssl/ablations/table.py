"""A study's results: mean and deviation over seeds, paired differences, and the sheets that show them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.special import stdtrit

from castssl.ablations.engine import OUTPUT, last_words
from castssl.ablations.formats import Entry, Sheet, markdown
from castssl.ablations.grid import Cell, Step, Study, is_seed
from castssl.evaluation.report import BASELINES, by_importance, legend, metric

ALL = "all"
"""Of the columns: every result and every cost."""
WIDTH = 80
"""Characters of the widest line of a table of default columns."""
DEFAULT = 3
"""Results in a table of default columns, as far as they fit."""
CONFIDENCE = 0.95
SHARES = "Shares in %; mean ± sample standard deviation over seeds. Bold: the best mean of a column."
ALL_ROWS = "Rows in italics: the value of a seed is the mean over its runs in all rows."
FEWER = "(n): this value is over n seeds; the other finished runs do not have this result."
COUNTED = re.compile(r" \(\d+\)$")
"""The end of a value that :data:`FEWER` describes."""
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
        mean, deviation = map(metric(name).text, (self.mean, self.deviation))
        return mean if self.seeds < 2 or math.isnan(self.deviation) else f"{mean} ± {deviation}"


class Difference(NamedTuple):
    """The mean difference of two rows over the seeds that both have finished, with its interval."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """True if the interval does not hold 0."""
        return self.low > 0 or self.high < 0

    def shown(self, name: str) -> str:
        """In percentage points where the result is a share."""
        scale, digits = metric(name).scale, metric(name).digits
        mean, low, high = (f"{scale * value:+.{digits}f}" for value in self[:3])
        return f"{mean} [{low}, {high}]"


@dataclass(frozen=True)
class Row:
    """The cells that differ in their seed only."""

    values: tuple[str, ...]
    runs: Mapping[tuple[str, ...], Mapping[str, float]]
    """The results of the finished cells, by their seeds."""
    cost: Cost
    cells: int

    @property
    def results(self) -> dict[str, Spread]:
        """Each result over its seeds."""
        names = dict.fromkeys(name for run in self.runs.values() for name in run)
        return {name: spread([run[name] for run in self.runs.values() if name in run]) for name in names}

    @property
    def label(self) -> str:
        """The values in one text."""
        return ", ".join(self.values)


def cell_results(cell: Cell, out: Path) -> dict[str, float] | None:
    """The results of a cell's runs after training, a later run's first; None if one is not finished."""
    every = [step.results(out) for step in cell.steps]
    if None in every:
        return None
    return {name: value for results in every for name, value in (results or {}).get(cell.part, {}).items()}


def references(study: Study, out: Path) -> dict[str, dict[str, Spread]]:
    """Results without training, over seeds; equal ones have no deviation.

    The value of a seed is the mean over its finished runs in all rows.  A run that several cells share counts
    once, and so do the seeds that share it.
    """
    kinds = BASELINES if study.references is None else study.references
    seeds: dict[Step, list[tuple[str, ...]]] = {}
    for cell in study.cells():
        for step in cell.steps:
            seeds.setdefault(step, []).append(cell.seeds)
    by_kind: dict[str, dict[str, dict[frozenset[tuple[str, ...]], list[float]]]] = {}
    for step, own in seeds.items():
        for kind, values in (step.results(out) or {}).items():
            for name, value in values.items() if kind in kinds else ():
                of_seed = by_kind.setdefault(kind, {}).setdefault(name, {})
                of_seed.setdefault(frozenset(own), []).append(value)

    def of(values: Sequence[Sequence[float]]) -> Spread:
        different = {value for own in values for value in own}
        return (
            spread([*map(fmean, values)])
            if len(different) > 1
            else Spread(values[0][0], math.nan, len(values))
        )

    return {kind: {name: of([*v.values()]) for name, v in values.items()} for kind, values in by_kind.items()}


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


def difference(row: Row, first: Row, name: str) -> Difference | None:
    """The paired difference of two rows in one result; None with fewer than two common seeds.

    The interval is mean ± t · s / √n: over the n seeds that both rows have finished, s is the sample standard
    deviation of the differences, and t the 97.5 % quantile of Student's distribution with n - 1 degrees of
    freedom.
    """
    pairs = [(run, first.runs[seeds]) for seeds, run in row.runs.items() if seeds in first.runs]
    values = [run[name] - base[name] for run, base in pairs if name in run and name in base]
    if len(values) < 2:
        return None
    n, mean = len(values), fmean(values)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)


def rows(study: Study, out: Path, costs: Mapping[tuple[str, ...], Cost]) -> list[Row]:
    """One row for each combination of values but the seed, in the grid's order."""
    grouped: dict[tuple[str, ...], list[Cell]] = {}
    for cell in study.cells():
        grouped.setdefault(cell.row, []).append(cell)
    table_rows = []
    for values, cells in grouped.items():
        results = {cell.seeds: result for cell in cells if (result := cell_results(cell, out)) is not None}
        table_rows.append(Row(values or (ALL,), results, costs.get(values, {}), len(cells)))
    return table_rows


def keys(study: Study) -> list[str]:
    """The grid's keys but the seed: the first columns."""
    return [key for key in study.grid if not is_seed(key)] or ["runs"]


def available(table_rows: Sequence[Row]) -> list[str]:
    """The names of all columns: results, the most important first, then costs."""
    results = by_importance(dict.fromkeys(name for row in table_rows for name in row.results))
    return [*results, *dict.fromkeys(name for row in table_rows for name in row.cost)]


def columns(study: Study, out: Path, table_rows: Sequence[Row]) -> list[str]:
    """The names of the columns that the study shows."""
    every = available(table_rows)
    if ALL in study.columns:
        return every
    if study.columns:
        return [name for name in study.columns if name in every]
    results = [name for name in every if any(name in row.results for row in table_rows)]
    return fitting(results[:DEFAULT], lambda names: sheet(study, out, table_rows, names))


def fitting(names: Sequence[str], build: Callable[[Sequence[str]], Sheet]) -> list[str]:
    """As many of the first names as fit into lines of :data:`WIDTH` characters in Markdown; at least one."""
    for count in range(len(names), 1, -1):
        if max(map(len, markdown(build(names[:count])))) <= WIDTH:
            return list(names[:count])
    return list(names[:1])


def sheet(study: Study, out: Path, table_rows: Sequence[Row], names: Sequence[str]) -> Sheet:
    """Means and deviations, the best of each column in bold, then the references in italics."""
    head = [*keys(study), *(metric(name).title if _is_result(name, table_rows) else name for name in names)]
    best = {name: _best(table_rows, name) for name in names}
    body = []
    for row in table_rows:
        finished = str(len(row.runs)) if len(row.runs) == row.cells else f"{len(row.runs)} of {row.cells}"
        texts = {name: _shown(row, name) for name in names}
        entries = [Entry(text, "bold" if text in best[name] else "") for name, text in texts.items()]
        body.append([*map(Entry, row.values), *entries, Entry(finished)])
    foot = []
    for kind, values in references(study, out).items():
        if not values.keys() & {*names}:
            continue
        most = max(value.seeds for value in values.values())
        shown = (
            values[name].shown(name) + _count(values[name].seeds, most) if name in values else "–"
            for name in names
        )
        padding = [""] * (len(keys(study)) - 1)
        foot.append([Entry(kind, "italic"), *map(Entry, (*padding, *shown, ""))])
    return Sheet([*head, "seeds"], body, foot, len(keys(study)))


def differences(study: Study, table_rows: Sequence[Row], names: Sequence[str]) -> Sheet:
    """Paired differences to the first row; bold where the interval excludes 0."""
    first, *others = table_rows
    body = []
    for row in others:
        both = len(row.runs.keys() & first.runs.keys())
        entries = []
        for name in names:
            found = difference(row, first, name)
            clear = found is not None and found.excludes_zero
            text = found.shown(name) + _count(found.seeds, both) if found else "–"
            entries.append(Entry(text, "bold" if clear else ""))
        body.append([*map(Entry, row.values), *entries])
    return Sheet([*keys(study), *(metric(name).title for name in names)], body, [], len(keys(study)))


def sheets(study: Study, out: Path, table_rows: Sequence[Row]) -> tuple[Sheet, Sheet | None]:
    """The table and, if two rows have two common seeds, the paired differences to its first row."""
    names = columns(study, out, table_rows)
    table = sheet(study, out, table_rows, names)
    results = [name for name in names if _is_result(name, table_rows)]
    first, *others = table_rows
    if not any(difference(row, first, name) for row in others for name in results):
        return table, None
    if not study.columns:
        results = fitting(results, lambda some: differences(study, table_rows, some))
    return table, differences(study, table_rows, results)


def document(study: Study, out: Path, table_rows: Sequence[Row], conditions: Sequence[str] = ()) -> str:
    """The Markdown document: the sheets and their notes, what failed, and the command of every cell.

    Args:
        study: what is compared.
        out: its folder.
        table_rows: of :func:`rows`.
        conditions: sentences on the costs, which appear with the column ``ms``.
    """
    table, paired = sheets(study, out, table_rows)
    names = columns(study, out, table_rows)
    lines = [f"# {study.title}", "", *markdown(table), "", SHARES, *["", FEWER] * _fewer(table, paired)]
    if table.foot and len(table_rows) > 1:
        lines += ["", ALL_ROWS]
    kinds = [row[0].text for row in table.foot]
    lines += ["", *(f"- {line}" for line in legend([metric(name) for name in names], kinds))]
    lines += [line for note in conditions if "ms" in names for line in ("", note)]
    others = [name for name in available(table_rows) if name not in names]
    if others:
        lines += ["", f"Further columns, by `--columns NAME ...` or `--columns all`: {', '.join(others)}."]
    if missing := [name for name in study.columns if name not in (*names, ALL)]:
        lines += ["", f"No run has the columns {', '.join(missing)}."]
    if paired is not None:
        lines += ["", "## Paired differences", "", *markdown(paired), "", _paired_note(table_rows[0])]
    if study.published:
        lines += ["", "## Published", "", "\n\n".join(study.published.values())]
    return "\n".join(
        [*lines, *_failures(study, out), "", "## Commands", "", "```bash", *commands(study, out), "```", ""]
    )


def _paired_note(first: Row) -> str:
    return (
        f"Differences to {first.label} with the same seed, mean [95 % confidence interval]; of shares in"
        " percentage points. The interval is mean ± t · s / √n, with the sample standard deviation s of the"
        " n differences and the 97.5 % quantile t of Student's distribution with n - 1 degrees of freedom."
        " Bold: it excludes 0. It is not corrected for the number of comparisons."
    )


def commands(study: Study, out: Path) -> list[str]:
    """Each run's exact command, once."""
    every = [step.command(out, ["python"]) for cell in study.cells() for step in cell.steps]
    return list(dict.fromkeys(shlex.join(command) for command in every))


def _is_result(name: str, table_rows: Sequence[Row]) -> bool:
    return any(name in row.results for row in table_rows)


def _shown(row: Row, name: str) -> str:
    if name in row.results:
        return row.results[name].shown(name) + _count(row.results[name].seeds, len(row.runs))
    return f"{row.cost[name]:.3g}" if name in row.cost else "–"


def _count(seeds: int, finished: int) -> str:
    """The number of seeds of a value that some of the finished runs do not have."""
    return f" ({seeds})" if seeds < finished else ""


def _fewer(*tables: Sheet | None) -> bool:
    """True if a value is over fewer seeds than its row."""
    rows = [row[table.labels :] for table in tables if table for row in (*table.body, *table.foot)]
    return any(COUNTED.search(entry.text) for row in rows for entry in row)


def _best(table_rows: Sequence[Row], name: str) -> set[str]:
    """The texts of the best means of a column, of which several may be equal as shown.

    None for one row, or if no value is better than another.  A mean that is not a number is never the best.
    """
    found = [(_shown(row, name), row.results[name].mean) for row in table_rows if name in row.results]
    means = {text: mean for text, mean in found if not math.isnan(mean)}
    if len(table_rows) < 2 or not means or metric(name).neutral:
        return set()
    means = {text: round(mean * metric(name).scale, metric(name).digits) for text, mean in means.items()}
    best = min(means.values()) if metric(name).lower_is_better else max(means.values())
    return {text for text, mean in means.items() if mean == best}


def _failures(study: Study, out: Path) -> list[str]:
    lines: list[str] = []
    for cell in study.cells():
        begun = [step for step in cell.steps if step.folder(out).is_dir() and step.results(out) is None]
        for step in begun[:1]:
            named = ", ".join(f"{key}={value}" for key, value in cell.values.items())
            words = last_words(step.folder(out))
            ticks = max(map(len, re.findall("`+", words)), default=0)
            fence = "`" * max(3, ticks + 1)  # The output may hold a fence of its own.
            lines += ["", f"Not finished: {named}; the end of {step.folder(out) / OUTPUT}:", ""]
            lines += [f"{fence}text", words, fence]
    return lines
