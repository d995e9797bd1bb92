"""A report's tables: runs, results, settings, environments, commands and events."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from castssl.evaluation.report import BASELINES, COLUMNS, Metric, by_importance, fewest, legend, metric
from castssl.reports.gather import BLANK, NOT_COMPARED, Run, differences, shown
from castssl.shipped import recipe_names
from castssl.training.runs import measured_apart, number
from castssl.visualization.page import markup
from castssl.visualization.page.markup import Cell, Html

ACROSS = 6
"""Runs that are columns of a table, at most; more are rows."""
EVENTS = 20
"""Of the latest events of a run, shown."""
STATES = {
    "running": "a process trains in its folder; this page has what it had written so far",
    "stopped": "it ended before its last step; the same command continues it",
    "diverged": "its loss was not finite",
    "finished": "",
}


def moment(seconds: float) -> str:
    """A time since 1970 as text."""
    if seconds <= 0:
        return "–"
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return "unknown"


def duration(hours: float) -> str:
    """A length of time as text."""
    seconds = round(3600 * hours)
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def result(one: Metric, results: Mapping[str, float]) -> str:
    """A result as :mod:`castssl.evaluation.report` prints it, or a dash."""
    return one.text(results[one.name]) if one.name in results else "–"


def overview(runs: Sequence[Run]) -> Html:
    """The state and the progress of one or several runs."""
    if len(runs) == 1:
        return _cards(runs[0])
    head = ["run", "state", "recipe", "epochs", "steps", "time", "images/s", "last line of the log"]
    rows: list[list[str | Cell]] = [
        [
            markup.named(run.title, run.color),
            markup.badge(run.summary.state),
            run.summary.recipe or "–",
            _epochs(run),
            f"{run.summary.step:,}",
            duration(run.history.hours),
            f"{run.summary.rate:.0f}" if run.summary.rate else "–",
            moment(run.summary.updated),
        ]
        for run in runs
    ]
    states = dict.fromkeys(run.summary.state for run in runs)
    notes = [f"{state}: {STATES[state]}" for state in states if STATES[state]]
    return markup.join([markup.table(head, rows, labels=3, caption="runs"), markup.listing(notes)])


def _cards(run: Run) -> Html:
    settings = run.summary.settings
    named = {name: shown(settings[name]) for name in ("data", "model", "seed") if name in settings}
    facts: dict[str, str | Cell] = {
        "state": markup.badge(run.summary.state),
        "recipe": run.summary.recipe or "unknown",
        **named,
        "epochs": _epochs(run),
        "optimizer steps": f"{run.summary.step:,}",
        "time": duration(run.history.hours),
        "images/s": f"{run.summary.rate:.0f}" if run.summary.rate else "–",
        "began": moment(run.summary.began),
        "last line of the log": moment(run.summary.updated),
    }
    note = STATES[run.summary.state]
    state = [markup.paragraph(f"{run.summary.state}: {note}", "warning")] if note else []
    return markup.join([markup.facts(facts), *state])


def _epochs(run: Run) -> str:
    if not run.history.training:
        return "–"
    total = number(run.summary.settings.get("epochs"))
    return f"{run.summary.epoch:.1f}" + (f" of {total:g}" if total else "")


def results(runs: Sequence[Run]) -> Html:
    """The final table of a run, or those of several runs side by side, with a legend."""
    if not any(any(run.columns.values()) or run.summary.results for run in runs):
        return markup.paragraph("Nothing was measured on held-out images yet.", "faint")
    if len(runs) == 1:
        found = {name: values for name, values in runs[0].columns.items() if values}
        if "trained" not in found and runs[0].summary.results:
            found = {"so far": runs[0].summary.results, **found}
        order = ["so far", *COLUMNS]
        headings = sorted(found, key=lambda name: order.index(name) if name in order else len(order))
        return _final(found, headings)
    every = [run.trained for run in runs]
    if not any(every):  # Baselines alone so far.
        every = [values for run in runs for values in run.columns.values()]
    names = by_importance(dict.fromkeys(name for values in every for name in values))
    metrics = [metric(name) for name in names]
    cells = [[_best(one, run, runs) for run in runs] for one in metrics]
    references = {kind: _reference(runs, kind) for kind in BASELINES}
    kinds = [kind for kind, values in references.items() if values]
    titles = [_title(one) for one in metrics]
    table = _matrix(
        titles,
        runs,
        cells,
        "metric",
        {_heading(kind): [references[kind].get(one.name, "–") for one in metrics] for kind in kinds},
    )
    untrained = set[int]().union(*(fewest(values) for values in every))
    best = "★: the best of these runs" + ", not of the baselines" * bool(kinds)
    apart = measured_apart([(run.name, run.summary) for run in runs])
    best += "; of runs with equal evaluation settings" * bool(apart)
    notes = [best, *apart, *_unfinished(runs), *legend(metrics, kinds, untrained)]
    return markup.join([table, markup.listing(notes)])


def _final(found: Mapping[str, Mapping[str, float]], headings: Sequence[str]) -> Html:
    names = by_importance(dict.fromkeys(name for values in found.values() for name in values))
    metrics = [metric(name) for name in names]
    rows = [[one.title, one.unit, *(result(one, found[heading]) for heading in headings)] for one in metrics]
    head = ["metric", "unit", *map(_heading, headings)]
    table = markup.table(head, rows, labels=2, caption="results on held-out images")
    return markup.join([table, markup.listing(legend(metrics, headings))])


def _heading(kind: str) -> str:
    return "chance level" if kind == "chance" else kind


def _title(one: Metric) -> str:
    return f"{one.title}, {one.unit}" if one.unit else one.title


def _best(one: Metric, run: Run, runs: Sequence[Run]) -> Cell:
    """A result, marked if it is the best of the runs with the same evaluation settings."""
    values = [
        round(other.trained[one.name] * one.scale, one.digits)
        for other in runs
        if one.name in other.trained and other.summary.measured_with == run.summary.measured_with
    ]
    if one.name not in run.trained:
        return Cell("–", "faint")
    best = min(values) if one.lower_is_better else max(values)
    first = len(set(values)) > 1 and round(run.trained[one.name] * one.scale, one.digits) == best
    return Cell(result(one, run.trained), "best" * (first and not one.neutral))


def _reference(runs: Sequence[Run], kind: str) -> dict[str, str]:
    """The results of a baseline in all runs: one text, or the lowest and the highest one."""
    texts: dict[str, str] = {}
    for name in dict.fromkeys(name for run in runs for name in run.columns.get(kind, {})):
        values = [run.columns[kind][name] for run in runs if name in run.columns.get(kind, {})]
        low, high = (result(metric(name), {name: one}) for one in (min(values), max(values)))
        texts[name] = low if low == high else f"{low} to {high}"
    return texts


def _unfinished(runs: Sequence[Run]) -> list[str]:
    names = [run.name for run in runs if run.summary.state != "finished" and run.trained]
    return [f"the latest results in the log, not those after training: {', '.join(names)}"] if names else []


def _matrix(
    titles: Sequence[str],
    runs: Sequence[Run],
    cells: Sequence[Sequence[str | Cell]],
    corner: str,
    further: Mapping[str, Sequence[str]] | None = None,
) -> Html:
    """A row for each title and a column for each run, or the other way round for many runs."""
    further = further or {}
    if len(runs) <= ACROSS:
        head = [corner, *(run.short for run in runs), *further]
        rows: list[list[str | Cell]] = [
            [title, *row, *(values[i] for values in further.values())]
            for i, (title, row) in enumerate(zip(titles, cells, strict=True))
        ]
        return markup.table(head, rows, caption=f"{corner} by run")
    rows = [[markup.named(run.title, run.color), *(row[i] for row in cells)] for i, run in enumerate(runs)]
    rows += [[Cell(kind, "faint"), *values] for kind, values in further.items()]
    return markup.table(["run", *titles], rows, caption=f"run by {corner}")


def settings(runs: Sequence[Run]) -> Html:
    """What differs between the runs, then all settings."""
    every = [run.summary.settings for run in runs]
    if len(runs) == 1:
        if not every[0]:
            return markup.paragraph("The run's config.json is damaged or empty.", "warning")
        return markup.join([_values("setting", every[0], "settings"), _blank(runs)])
    differing = differences([run.summary for run in runs])
    parts = [markup.heading("What differs")]
    if differing:
        parts.append(_compared(runs, differing, every, "setting"))
    else:
        parts.append(markup.paragraph("These runs have the same settings.", "faint"))
    different = (*differing, *NOT_COMPARED)
    same = {name: entry for values in every for name, entry in values.items() if name not in different}
    shared = markup.details(f"{len(same)} settings that all share", _values("setting", same, "same"))
    return markup.join([*parts, shared, _blank(runs)])


def _blank(runs: Sequence[Run]) -> Html:
    """What a setting without a value means, if there is one."""
    note = f"{BLANK}: not set; the recipe's --help describes what the run then uses"
    blank = any(shown(value) == BLANK for run in runs for value in run.summary.settings.values())
    return markup.listing([note] * blank)


def _values(heading: str, values: Mapping[str, Any], caption: str) -> Html:
    rows = [[name, shown(entry)] for name, entry in values.items()]
    return markup.table([heading, "value"], rows, labels=2, caption=caption)


def _compared(
    runs: Sequence[Run], names: Sequence[str], every: Sequence[Mapping[str, Any]], corner: str
) -> Html:
    """The values of some names in each run."""
    cells = [[Cell(shown(values[name]) if name in values else "–") for values in every] for name in names]
    return Html(f'<div class="values">{_matrix(names, runs, cells, corner)}</div>')


def environment(runs: Sequence[Run]) -> Html:
    """What the runs were computed with, at their latest start."""
    every = [_environment(run) for run in runs]
    names = list(dict.fromkeys(name for values in every for name in values))
    if not names:
        return markup.paragraph("The logs of these runs hold no environment.", "faint")
    if len(runs) == 1:
        return markup.join([_values("", every[0], "environment"), *_starts(runs[0])])
    differing = [name for name in names if len({values.get(name) for values in every}) > 1]
    parts = []
    if differing:
        parts += [markup.heading("What differs"), _compared(runs, differing, every, "of")]
    same = {name: text for name, text in every[0].items() if name not in differing}
    table = _values("", same, "environment of all runs")
    return markup.join([*parts, markup.heading("What all share"), table] if same else parts)


def _environment(run: Run) -> dict[str, str]:
    start = run.history.starts[-1] if run.history.starts else {}
    inner = start.get("environment")
    values = dict(inner) if isinstance(inner, dict) else {}
    packages = values.pop("packages", {})
    listed = packages.items() if isinstance(packages, dict) else ()
    first = {name: start[name] for name in ("device", "processes") if name in start}
    if not inner:
        first |= {name: start[name] for name in ("castssl", "torch") if name in start}
    return {str(name): shown(entry, "–") for name, entry in (*first.items(), *values.items(), *listed)}


def _starts(run: Run) -> list[Html]:
    """When the run was started, if it was more than once."""
    if len(run.history.starts) < 2:
        return []
    rows = [
        [moment(float(start["time"])), f"{number(start.get('after')) or 0:,.0f}"]
        for start in run.history.starts
    ]
    head = ["start", "after optimizer step"]
    return [markup.heading("Starts"), markup.table(head, rows, caption="starts of the run")]


def commands(run: Run) -> Html:
    """The command of the run's first start, and one that makes the run again from its settings."""
    start = run.history.starts[0] if run.history.starts else {}
    argv = start.get("argv")
    parts = []
    if isinstance(argv, list) and argv:
        words = [str(word) for word in argv]
        processes = number(start.get("processes")) or 1
        launcher = (
            ["accelerate", "launch", "--num_processes", f"{processes:g}"] if processes > 1 else ["python"]
        )
        parts += [markup.paragraph("As it was started:"), markup.command(shlex.join([*launcher, *words]))]
        if processes > 1:
            note = "The log holds the number of processes; further options of the launcher are unknown."
            parts.append(markup.paragraph(note, "faint"))
    else:
        parts.append(markup.paragraph("The log holds no command.", "faint"))
    recipe = run.summary.recipe
    if recipe and run.summary.settings:
        first = str(argv[0]) if isinstance(argv, list) and argv else recipe
        file = recipe if recipe in recipe_names() else first
        folder = str(run.summary.folder)
        words = ["castssl", "run", file, "--config", folder, "--out", f"{folder}-again"]
        text = "Again with the same settings, in another folder:"
        parts += [markup.paragraph(text), markup.command(shlex.join(words))]
    return markup.join(parts)


def events(run: Run) -> Html:
    """What the log holds beside numbers: warnings, notes, unreadable images, stops."""
    found = run.history.events
    rows = [
        [
            moment(float(line["time"])),
            f"{number(line.get('step')) or 0:,.0f}",
            str(line["event"]),
            " ".join(str(line[name]) for name in ("image", "reason", "text") if name in line),
        ]
        for line in found[-EVENTS:]
    ]
    parts = [markup.heading(run.name)] if rows else []
    if len(found) > EVENTS:
        parts.append(
            markup.paragraph(f"The latest {EVENTS} of {len(found):,}; log.jsonl holds all.", "faint")
        )
    head = ["time", "step", "event", "text"]
    return markup.join([*parts, *([markup.table(head, rows, labels=4, caption="events")] if rows else [])])
