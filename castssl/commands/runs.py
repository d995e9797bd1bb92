"""``castssl runs``: the runs in a folder, their state and what they reached."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from castssl.commands.arguments import Commands, subcommand, table
from castssl.errors import ConfigError, printable
from castssl.terminal import safe_markup

if TYPE_CHECKING:
    from rich.table import Table

    from castssl.training.runs import RunSummary

COLORS = {"running": "cyan", "finished": "green", "stopped": "yellow", "diverged": "red"}
SHOWN = 3
"""Results in the table, unless --columns selects others."""
NOTES = """Running: a process trains in the folder.  Stopped: it ended before the last step, or was killed;
the same command continues it.  Diverged: its loss was not finite.  Results are those after training, or the
latest ones in the log with the evaluation settings, such as --val, of the latest start.  --sort takes name,
state, epochs, began, updated (the default) or a result, best first.
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "the runs in a folder: state, progress and results"
    command = subcommand(commands, "runs", purpose, _runs, NOTES)
    command.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: runs"
    )
    command.add_argument(
        "--sort", default="updated", metavar="KEY", help="default: updated, the latest first"
    )
    columns = f"results by their names in results.json (default: {SHOWN} that most runs have)"
    command.add_argument("--columns", nargs="+", default=(), metavar="NAME", help=columns)
    command.add_argument("--json", action="store_true", help="print all results and settings for programs")


def _runs(args: argparse.Namespace) -> int:
    from rich.console import Console

    from castssl.evaluation.report import fewest, legend, metric
    from castssl.training.runs import measured_apart, summaries

    runs, remarks = summaries(args.folder)
    for remark in remarks:
        print(printable(f"castssl: {remark}"), file=sys.stderr)
    if not runs:
        raise ConfigError(
            f"{args.folder} holds no run: no folder with config.json and log.jsonl; give another one"
        )
    runs = _sorted(runs, args.sort)
    if args.json:
        content = [_plain({**asdict(run), "folder": str(run.folder)}) for run in runs]
        print(json.dumps(content, indent=1, allow_nan=False))
        return 0
    columns = list(args.columns) or _common(runs)
    if unknown := [name for name in columns if not any(name in run.results for run in runs)]:
        raise ConfigError(f"--columns: no run has {unknown[0]}; they have {_known(runs)}")
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(_table(runs, columns, args.folder))
    states = Counter[str](run.state for run in runs)
    console.print(", ".join(f"{states[state]} {state}" for state in COLORS if states[state]))
    untrained = set[int]().union(*(fewest(run.results) for run in runs))
    apart = measured_apart([(_name(run, args.folder), run) for run in runs])
    for line in (*map(printable, apart), *legend([metric(name) for name in columns], (), untrained)):
        console.print(line, style="dim", highlight=False, markup=False, emoji=False)
    return 0


def _plain(value: object) -> object:
    """A value as strict JSON has it: a setting that is not finite is a text."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _sorted(runs: Sequence[RunSummary], key: str) -> list[RunSummary]:
    """By a field or a result; runs without it are last."""
    from castssl.evaluation.report import metric

    if key == "name":
        return sorted(runs, key=lambda run: str(run.folder))
    if key == "state":
        return sorted(runs, key=lambda run: list(COLORS).index(run.state))
    if key in ("epochs", "began", "updated"):
        return sorted(runs, key=attrgetter("epoch" if key == "epochs" else key), reverse=True)
    if not any(key in run.results for run in runs):
        raise ConfigError(
            f"--sort: got {key}, expected name, state, epochs, began, updated or one of {_known(runs)}"
        )
    sign = 1 if metric(key).lower_is_better else -1
    return sorted(runs, key=lambda run: sign * run.results[key] if key in run.results else float("inf"))


def _known(runs: Sequence[RunSummary]) -> str:
    """The names of all results."""
    from castssl.evaluation.report import by_importance

    return ", ".join(by_importance(sorted({name for run in runs for name in run.results}))) or "no results"


def _common(runs: Sequence[RunSummary]) -> list[str]:
    """The results that most runs have, of these the most important; none of segments by random weights."""
    from castssl.evaluation.report import SEGMENTS, by_importance, fewest

    counts = Counter(name for run in runs for name in run.results)
    untrained = set[int]().union(*(fewest(run.results) for run in runs))
    random = {name for name in counts if (match := SEGMENTS.fullmatch(name)) and int(match[2]) in untrained}
    order = [name for name in by_importance(counts) if name not in random]
    return sorted(order, key=lambda name: (-counts[name], order.index(name)))[:SHOWN]


def _table(runs: Sequence[RunSummary], columns: Sequence[str], folder: Path) -> Table:
    from castssl.evaluation.report import metric

    shown = [metric(name) for name in columns]
    headings = [safe_markup(f"{one.title}\n{one.unit}") for one in shown]
    grid = table(["run", "state", "recipe"], ["epochs", "images/s", "ago", *headings])
    for run in runs:
        total = run.settings.get("epochs")
        epochs = f"{run.epoch:.1f}/{total}" if total else f"{run.epoch:.1f}"
        cells = (one.text(run.results[one.name]) if one.name in run.results else "" for one in shown)
        name = safe_markup(_name(run, folder))
        state = f"[{COLORS[run.state]}]{run.state}[/]"
        rate = f"{run.rate:.0f}" if run.rate else ""
        texts = (safe_markup(text) for text in (run.recipe, epochs))
        grid.add_row(name, state, *texts, rate, _ago(run.updated), *cells)
    return grid


def _name(run: RunSummary, folder: Path) -> str:
    """The run's path below the folder that was searched."""
    return str(run.folder.relative_to(folder) if run.folder != folder else folder)


def _ago(updated: float) -> str:
    """The time since then; empty for an empty log, and none if a clock is ahead."""
    return str(timedelta(seconds=max(0, round(time.time() - updated)))) if updated else ""
