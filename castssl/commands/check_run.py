"""``castssl check run``: is the run of a recipe the one that it should be?"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING

from castssl.commands.arguments import Commands, subcommand
from castssl.errors import ConfigError
from castssl.files import translate_os_error
from castssl.shipped import recipe
from castssl.verification.promises import PROMISES

if TYPE_CHECKING:
    from rich.table import Table

    from castssl.verification.suite import Verdict

NAMES = tuple(PROMISES)
USAGE = "castssl check run [--only CHECK] [--skip CHECK] [...] RECIPE [FLAGS OF THE RECIPE]"
NOTES = """The recipe runs for a few steps in its own processes, on the CPU, with the flags that follow its
name and with --out in a temporary folder.  Give it your data, your plugin and your model, and a --batch-size
that is small enough for a CPU.  Evaluations on held-out images are left out, except with --evaluate.

checks:
{checks}

A check that cannot run for a recipe is "not applicable", with the reason; it has not passed.

exit code: 0 if no check failed and one or more passed, 1 otherwise, 2 if the recipe does not run with these
flags

examples:
  castssl check run moco_in1k --data demo --model nano --image-size 64 --batch-size 16
  castssl check run --skip onnx --skip compiled ./mine.py --data folder:/path/to/images --batch-size 8
"""


def add(kinds: Commands) -> None:
    """Add ``run`` to the kinds of ``castssl check``."""
    purpose = "check a recipe with its flags: resume, two processes, export, torch.compile"
    command = subcommand(kinds, "run", purpose, _check, _notes(), usage=USAGE, allow_abbrev=False)
    for flag, text in (("--only", "make this check alone"), ("--skip", "leave this check out")):
        more = f"{text}; may be given several times"
        command.add_argument(flag, action="append", choices=NAMES, default=[], metavar="CHECK", help=more)
    command.add_argument("--evaluate", action="store_true", help="evaluate on held-out images in resume, too")
    text = "keep the runs in this new folder (default: they are deleted)"
    command.add_argument("--keep", type=Path, metavar="DIR", help=text)
    text = "seconds after which a process is given up (default: 1800)"
    command.add_argument("--limit", type=float, default=1800.0, metavar="SECONDS", help=text)
    command.add_argument("recipe", metavar="RECIPE", help="such as moco_in1k, or a file that ends in .py")
    command.add_argument("flags", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _notes() -> str:
    width = max(map(len, NAMES)) + 4
    filled = [
        textwrap.fill(
            promise.about, 106, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width
        )
        for name, promise in PROMISES.items()
    ]
    return NOTES.format(checks="\n".join(filled))


def _check(args: argparse.Namespace) -> int:
    from rich.console import Console

    try:
        path = recipe(args.recipe).resolve()
        chosen = _chosen(args.only, args.skip)
        if not 0 < args.limit < math.inf:
            raise ConfigError(f"--limit: got {args.limit:g}, expected seconds above 0, such as 600")
        with _ended_by_signals(), _folder(args.keep) as folder:
            verdicts = _verdicts(args, path, folder, chosen)
    except ConfigError as error:
        print(f"castssl: {error}", file=sys.stderr)
        return 2
    Console().print(_table(" ".join([args.recipe, *args.flags]), verdicts))
    results = [verdict.result for verdict in verdicts]
    counts = [f"{results.count('passed')} of {len(results)} checks passed"]
    counts += [
        f"{results.count(word)} {word}" for word in ("failed", "not applicable", "skipped") if word in results
    ]
    print(", ".join(counts))
    return 0 if "failed" not in results and "passed" in results else 1


def _chosen(only: list[str], skip: list[str]) -> list[str]:
    """The checks to make.

    Raises:
        ConfigError: if none is left.
    """
    chosen = [name for name in NAMES if name not in skip and (name in only or not only)]
    if not chosen:
        raise ConfigError(f"--only and --skip leave no check; choose of {', '.join(NAMES)}")
    return chosen


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """An empty folder for the runs, which is deleted at the end unless it is to be kept.

    Raises:
        ConfigError: if the one to keep is there and not empty.
    """
    if keep is None:
        with TemporaryDirectory(prefix="castssl-check-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    if os.path.lexists(keep) and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(f"--keep: {keep} is there already and not empty; give a new folder")
    with translate_os_error(keep, "folder of the runs"):
        keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the processes and delete the folder, as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = [signal.SIGTERM] if sys.platform == "win32" else [signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # Else nohup started it.
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _verdicts(args: argparse.Namespace, path: Path, folder: Path, chosen: list[str]) -> list[Verdict]:
    from rich.console import Console

    console = Console(stderr=True)
    verdicts = []
    with console.status("importing torch") as status:
        from castssl.verification.suite import Suite, Verdict

        suite = Suite(path, args.flags, folder, evaluate=args.evaluate, limit=args.limit)
        for number, name in enumerate(NAMES, 1):
            if name not in chosen:
                verdicts.append(Verdict(name, "skipped", "by --only or --skip", 0.0))
                continue
            text = f"{number} of {len(NAMES)}: {PROMISES[name].title}"
            status.update(text)
            if not console.is_terminal:
                print(text, file=sys.stderr)
            verdicts.append(suite(name))
    return verdicts


def _table(title: str, verdicts: list[Verdict]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("check", "what it shows", "verdict", "s", title=escape(title))
    colors = {"passed": "green", "failed": "red", "not applicable": "yellow", "skipped": "yellow"}
    for verdict in verdicts:
        text = f"[{colors[verdict.result]}]{verdict.result}[/]: {escape(verdict.text)}"
        table.add_row(verdict.name, PROMISES[verdict.name].title, text, f"{verdict.seconds:.1f}")
    return table
