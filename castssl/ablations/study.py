"""A study from the command line: run its cells, and write tables and chart as they finish."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from castssl.ablations import cost, engine, spreadsheets, table
from castssl.ablations.chart import draw
from castssl.ablations.engine import STOP_SIGNALS, Jobs
from castssl.ablations.formats import latex
from castssl.ablations.grid import ALLOW, SEED, Step, Study, add_flags, from_one, parse, split
from castssl.errors import CastError, ConfigError, PluginError
from castssl.files import write_text
from castssl.outputs import check_outputs
from castssl.terminal import ignore_closed_streams

MARK = ".castssl-study"
"""An empty file in the folder of a study, whose tables later calls may replace."""
DEMO = "demo:surroundings=fixed"
"""The data of :func:`on_small_data`: with the default surroundings, CAST with the linear head reaches an mIoU
of 16 in eight epochs."""
APART = 1.0
"""Seconds between two separate Ctrl-C; a terminal and a launcher pass on the same one."""
WRITTEN = ("table.md", "table.tex", "table.csv", "cells.csv", "table.png")


def conduct(study: Study, args: argparse.Namespace, name: str) -> int:
    """Run what is not finished and write the table; 0 if all cells finished, else 1.

    Args:
        study: what is compared.
        args: the parsed arguments of :func:`castssl.ablations.grid.add_flags`.
        name: of the folder, without ``--out``.
    """
    out = _folder(args, name)
    study = replace(study, columns=args.columns or study.columns)
    tables = out / study.tables
    if args.allow_commands and study.data:
        study = replace(study, flags=[*study.flags, ALLOW], then_flags=[*study.then_flags, ALLOW])
    steps = engine.steps_of(study.cells())
    launcher = split(args.launcher, "--launcher")
    if args.dry_run:
        if args.cluster != "local":
            print(f"# each a job of the {args.cluster} cluster with {_parameters(args.job)}")
        for step in steps:
            print(shlex.join(step.command(out, launcher or ["python"])))
        return 0
    claim(tables, overwrite=args.overwrite)
    jobs = Jobs(out, args.cluster, args.jobs, _parameters(args.job), launcher)
    console = Console(stderr=True)
    at_once = len(steps) if args.cluster == "slurm" else args.jobs
    try:
        with _stop_signals() as signaled:
            events = engine.run(steps, out, jobs, at_once=at_once, stop=lambda: signaled)
            _show(study, out, events, console)
            if signaled:  # While the last table was written.
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        console.print(f"stopped; the same command continues, and {tables / 'table.md'} has what is finished")
        write(study, out, measure=False)
        return 130
    text = write(study, out, measure=bool({table.ALL, *cost.COLUMNS} & set(study.columns)))
    Console().print(Markdown(text.partition("## Commands")[0]))
    print(f"{', '.join(name for name in WRITTEN if (tables / name).is_file())} are in {tables}")
    return 0 if all(step.results(out) is not None for step in steps) else 1


def on_small_data(
    name: str, purpose: str, folder: Path, studies: Callable[[argparse.Namespace], Iterable[Study]]
) -> int:
    """The command line of several studies that share runs, on the demo data and on drawings on photographs.

    Args:
        name: of the script.
        purpose: one line for its help.
        folder: of all runs, without ``--out``.
        studies: of the parsed arguments ``data``, ``drawings``, ``seeds`` and those of
            :func:`castssl.ablations.grid.add_flags`; run one after the other.

    Returns:
        The exit code: 0, 1 if a cell failed, 2 if the command line is wrong, or 130 after Ctrl-C.
    """
    ignore_closed_streams()
    parser = argparse.ArgumentParser(name, description=purpose)
    text = f"the demo data set, maybe with options such as size=64,per_class=20 (default: {DEMO})"
    parser.add_argument("--data", default=DEMO, metavar="demo:OPTIONS", help=text)
    text = "a folder of recipes/benchmarks/drawings.py, for tables of its own"
    parser.add_argument("--drawings", type=Path, metavar="DIR", help=text)
    text = "repetitions of a row, with seeds 0 to N - 1 (default: 3)"
    parser.add_argument("--seeds", type=from_one, default=3, metavar="N", help=text)
    add_flags(parser)
    args = parser.parse_args()
    args.out = args.out or folder
    try:
        if not args.dry_run:
            _check(args.out, overwrite=args.overwrite)
        if args.data.partition(":")[0] != "demo":
            raise ConfigError(f"--data {args.data}: expected demo, or demo:OPTIONS")
        for part in ("train", "val") if args.drawings else ():
            if not (args.drawings / part).is_dir():  # Else its runs fail, after hours on the demo data.
                raise ConfigError(
                    f"--drawings: there is no {args.drawings / part}; make the set by"
                    " recipes/benchmarks/drawings.py"
                )
        if not args.dry_run:
            claim(args.out, overwrite=args.overwrite)
        codes = []
        for study in list(studies(args)):
            codes.append(conduct(study, args, name))
            if codes[-1] == 130:  # stopped
                break
        return max(codes)
    except CastError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def claim(folder: Path, *, overwrite: bool) -> None:
    """Mark a folder as a study's.

    Raises:
        ConfigError: if it holds tables that no study made, and they may not be replaced.
    """
    _check(folder, overwrite=overwrite)
    if not (folder / MARK).is_file():
        write_text(folder / MARK, "")


def _check(folder: Path, *, overwrite: bool) -> None:
    if not (folder / MARK).is_file():
        check_outputs([folder / name for name in WRITTEN], overwrite=overwrite)


@contextmanager
def _stop_signals() -> Iterator[list[float]]:
    """The times of the signals that stop this process; also where a shell has put it into the background.

    A second Ctrl-C leaves at once, and leaves the runs to save and end by themselves.
    """
    signaled: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        if signaled and number == signal.SIGINT and time.monotonic() - signaled[0] > APART:
            raise KeyboardInterrupt
        signaled.append(time.monotonic())

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler != signal.SIG_IGN:  # Else nohup started it.
            signal.signal(number, note)
    try:
        yield signaled
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(study: Study, out: Path, events: Iterator[engine.Event], console: Console) -> None:
    steps = engine.steps_of(study.cells())
    columns = (
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # What an earlier command finished changes no table, and a chart takes a second.
    earlier = {step for step in steps if step.results(out) is not None}
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(steps))
        for event in events:
            progress.update(bar, completed=event.done, description=_left(steps, out, event.done))
            folder = event.step.folder(out)
            text = f"{event.state:<9} {event.step.name}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            if event.state == "failed" and folder.is_dir():
                console.print(engine.last_words(folder, 4), markup=False, highlight=False, style="dim")
            if event.state != "runs" and event.step not in earlier:
                write(study, out, measure=False)


def _left(steps: Sequence[Step], out: Path, done: int) -> str:
    """How long the other runs will take if they are like those that are finished."""
    taken = [seconds for step in steps if (seconds := engine.seconds_of(step.folder(out)))]
    if not taken or done >= len(steps):
        return ""
    minutes = (len(steps) - done) * sum(taken) / len(taken) / 60
    return f"{minutes:.0f} minutes of work left"


def write(study: Study, out: Path, *, measure: bool) -> str:
    """Write the files of :data:`WRITTEN`; the Markdown comes back.

    Args:
        study: what is compared.
        out: its folder; the files go into :attr:`Study.tables` below it.
        measure: measure GFLOPs and ms of the rows that were not measured yet, some seconds per row.
    """
    if measure:
        cost.measure(study, out)
    costs = cost.kept(study, out)
    rows = table.rows(study, out, cost.numbers(costs))
    text = table.document(study, out, rows, cost.conditions(costs))
    place = out / study.tables
    sheets = [sheet for sheet in table.sheets(study, out, rows) if sheet]
    write_text(place / "table.md", text, "table")
    write_text(place / "table.tex", "\n\n".join("\n".join(latex(sheet)) for sheet in sheets) + "\n", "table")
    write_text(place / "table.csv", spreadsheets.summary(study, rows), "table")
    write_text(place / "cells.csv", spreadsheets.cells(study, out), "table")
    if not _charted(study, out, rows) and (place / MARK).is_file():
        (place / "table.png").unlink(missing_ok=True)  # It is of other rows.
    return text


def _charted(study: Study, out: Path, rows: Sequence[table.Row]) -> bool:
    """Draw the rows; False if they are not drawn."""
    if not any(row.runs for row in rows):
        return False
    references, chart = table.references(study, out), out / study.tables / "table.png"
    try:
        draw(study.title, rows, table.columns(study, out, rows), references, chart)
    except (ConfigError, PluginError) as error:
        print(f"castssl: {error}", file=sys.stderr)
        return False
    return True


def _parameters(texts: Sequence[str]) -> dict[str, Any]:
    pairs = [text.partition("=") for text in texts]
    if wrong := [key for key, equals, _ in pairs if not (key and equals)]:
        raise ConfigError(f"--job {wrong[0]}: expected KEY=VALUE, such as gpus_per_node=8")
    return {key: int(value) if value.isdecimal() else value for key, _, value in pairs}


def main(study: Study, *, demo: Study | None = None, argv: Sequence[str] | None = None) -> int:
    """The command line of a file in ``recipes/ablations``.

    Args:
        study: what is compared on data of a size that matters.
        demo: the same question with a budget for the embedded data set, ``--data demo``.
        argv: by default that of the process.
    """
    ignore_closed_streams()
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(name, description=study.title)
    what = "what to train on, as the recipe takes it, or demo" if study.data else "demo: of small models"
    parser.add_argument("--data", required=study.data, default="", help=what)
    parser.add_argument("--recipe", type=Path, help="another recipe's file")
    other = "other values of a key of the grid, such as pooling=graph,tome"
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,...", help=other)
    repetitions = "repetitions a row, with seeds 0 to N - 1"
    parser.add_argument("--seeds", type=from_one, metavar="N", help=repetitions)
    add_flags(parser)
    args = parser.parse_args(argv)
    is_demo = args.data.partition(":")[0] == "demo"
    chosen = demo if demo is not None and is_demo else study
    name = f"{name}-demo" if is_demo else name
    try:
        if not chosen.data and args.data not in ("", "demo"):
            if not args.dry_run:  # Files of others first, as with any other data.
                _check(_folder(args, name) / chosen.tables, overwrite=args.overwrite)
            raise ConfigError(f"--data {args.data}: this study reads no images; expected demo, or no --data")
        data = ["--data", args.data] if chosen.data else []
        grid = _overridden(chosen.grid, parse(args.grid))
        changes: dict[str, Any] = {"flags": [*data, *chosen.flags, *args.rest], "grid": grid}
        if chosen.then:
            changes["then_flags"] = [*data, *chosen.then_flags]
        if args.recipe:
            changes["recipe"] = args.recipe
        if own := {start: text for start, text in chosen.published.items() if args.data.startswith(start)}:
            changes["published"] = own
        if args.seeds:
            changes["grid"] = {**grid, SEED: [str(seed) for seed in range(args.seeds)]}
        return conduct(replace(chosen, **changes), args, name)
    except CastError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def _folder(args: argparse.Namespace, name: str) -> Path:
    return args.out or Path("runs") / "ablations" / name


def _overridden(
    grid: Mapping[str, Sequence[str]], values: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    if unknown := sorted(values.keys() - grid.keys()):
        raise ConfigError(f"--grid {unknown[0]}: the study's keys are {', '.join(grid)}; flags follow --")
    return {**grid, **values}
