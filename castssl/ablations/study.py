"""A study from the command line: run its cells, and write table, CSV and picture as they finish."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from castssl.ablations import cost, engine, table
from castssl.ablations.engine import TELLING, Jobs
from castssl.ablations.grid import ALLOW, Step, Study, add_flags
from castssl.errors import CastError, PluginError
from castssl.files import check_outputs, write_text
from castssl.output import outlive_readers

MARK = ".castssl-study"
"""An empty file in the folder of a study, whose tables later calls may replace."""
APART = 1.0
"""Seconds between two Ctrl-C that were both meant; a terminal and a launcher pass on the same one."""
WRITTEN = ("table.md", "cells.csv", "table.png")


def conduct(study: Study, given: argparse.Namespace, name: str) -> int:
    """Run what is not finished and write the table; 0 if all cells finished, else 1.

    Args:
        study: what is compared.
        given: what :func:`castssl.ablations.grid.add_flags` added, parsed.
        name: of the folder, if ``--out`` does not say.
    """
    out = given.out or Path("runs") / "ablations" / name
    if given.allow_commands and study.data:
        study = replace(study, flags=[*study.flags, ALLOW], then_flags=[*study.then_flags, ALLOW])
    steps = engine.steps_of(study.cells())
    launcher = shlex.split(given.launcher)
    if given.dry_run:
        if given.cluster != "local":
            print(f"# each a job of the {given.cluster} cluster with {_parameters(given.job)}")
        for step in steps:
            print(shlex.join(step.command(out, launcher or ["python"])))
        return 0
    if not (out / MARK).is_file():
        check_outputs([out / name for name in WRITTEN], overwrite=given.overwrite)
        write_text(out / MARK, "")
    jobs = Jobs(out, given.cluster, given.jobs, _parameters(given.job), launcher)
    console = Console(stderr=True)
    at_once = len(steps) if given.cluster == "slurm" else given.jobs
    try:
        with _told_to_stop() as told:
            events = engine.run(steps, out, jobs, at_once=at_once, stop=lambda: told)
            _watch(study, out, events, console)
            if told:  # While the last table was written.
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on, and {out / 'table.md'} has what is finished")
        write(study, out, measure=False)
        return 130
    text = write(study, out, measure=not given.no_cost)
    Console().print(Markdown(text.partition("## Commands")[0]))
    print(f"table, CSV and picture lie in {out}")
    return 0 if all(step.results(out) is not None for step in steps) else 1


@contextmanager
def _told_to_stop() -> Iterator[list[float]]:
    """When this process was told to stop; also where a shell has put it into the background.

    A second Ctrl-C leaves at once, and leaves the runs to save and end by themselves.
    """
    told: list[float] = []

    def tell(number: int, frame: FrameType | None) -> None:
        if told and number == signal.SIGINT and time.monotonic() - told[0] > APART:
            raise KeyboardInterrupt
        told.append(time.monotonic())

    before = {number: signal.getsignal(number) for number in TELLING}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler != signal.SIG_IGN:  # Else nohup started it.
            signal.signal(number, tell)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(study: Study, out: Path, events: Iterator[engine.Told], console: Console) -> None:
    steps = engine.steps_of(study.cells())
    columns = (
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(steps))
        for told in events:
            progress.update(bar, completed=told.done, description=_left(steps, out, told.done))
            folder = told.step.folder(out)
            console.print(f"{told.state:<9} {told.step.name}", highlight=False, soft_wrap=True)
            if told.state == "failed" and folder.is_dir():
                console.print(engine.last_words(folder, 4), markup=False, highlight=False, style="dim")
            if told.state != "runs":
                write(study, out, measure=False)


def _left(steps: Sequence[Step], out: Path, done: int) -> str:
    """How long the other runs will take if they are like those that are finished."""
    taken = [seconds for step in steps if (seconds := engine.seconds_of(step.folder(out)))]
    if not taken or done >= len(steps):
        return ""
    minutes = (len(steps) - done) * sum(taken) / len(taken) / 60
    return f"{minutes:.0f} minutes of work left"


def write(study: Study, out: Path, *, measure: bool) -> str:
    """Write ``table.md``, ``cells.csv`` and ``table.png``; the Markdown comes back.

    Args:
        study: what is compared.
        out: its folder.
        measure: measure GFLOPs and ms of the rows that were not measured yet, some seconds a row.
    """
    if measure:
        cost.measure(study, out)
    known = cost.kept(study, out)
    made = table.rows(study, out, cost.numbers(known))
    text = table.markdown(study, out, made, cost.conditions(known))
    write_text(out / "table.md", text, "table")
    write_text(out / "cells.csv", table.comma_separated(study, out), "table")
    if any(row.finished for row in made):
        try:
            table.draw(study.title, made, out / "table.png")
        except PluginError as error:
            print(f"castssl: {error}", file=sys.stderr)
    return text


def _parameters(texts: Sequence[str]) -> dict[str, Any]:
    pairs = (text.partition("=") for text in texts)
    return {key: int(value) if value.isdigit() else value for key, _, value in pairs}


def main(study: Study, *, demo: Study | None = None, argv: Sequence[str] | None = None) -> int:
    """The command line of a file in ``recipes/ablations``.

    Args:
        study: what is compared on data of a size that matters.
        demo: the same question with a budget for the embedded data set, ``--data demo``.
        argv: by default that of the process.
    """
    outlive_readers()
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(name, description=study.title)
    what = "what to train on, as the recipe takes it, or demo" if study.data else "demo: of small models"
    parser.add_argument("--data", required=study.data, default="", help=what)
    parser.add_argument("--recipe", type=Path, help="another recipe's file")
    parser.add_argument("--seeds", type=int, metavar="N", help="repetitions a row, with seeds 0 to N - 1")
    add_flags(parser)
    given = parser.parse_args(argv)
    is_demo = given.data.partition(":")[0] == "demo"
    chosen = demo if demo is not None and is_demo else study
    try:
        data = ["--data", given.data] if chosen.data else []
        changes: dict[str, Any] = {"flags": [*data, *chosen.flags, *given.rest]}
        if chosen.then:
            changes["then_flags"] = [*data, *chosen.then_flags]
        if given.recipe:
            changes["recipe"] = given.recipe
        if given.seeds:
            changes["grid"] = _seeded(chosen.grid, given.seeds)
        return conduct(replace(chosen, **changes), given, f"{name}-demo" if is_demo else name)
    except CastError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def _seeded(grid: Mapping[str, Sequence[str]], seeds: int) -> dict[str, Sequence[str]]:
    return {**grid, "seed": [str(seed) for seed in range(seeds)]}
