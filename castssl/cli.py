"""The command ``castssl``: each subcommand is a thin call into a room, which it imports when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from castssl import registry
from castssl.errors import CastError

if TYPE_CHECKING:
    from rich.table import Table

    from castssl.testing.claims import Result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code is 0, 1 if something failed, or 2 if the command line is wrong."""
    given = _parser().parse_args(arguments)
    try:
        code: int = given.run(given)
    except CastError as error:
        print(f"castssl: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "castssl", description="Vision transformers whose tokens are superpixels."
    )
    parser.add_argument(
        "--version", action="store_const", dest="run", const=_version, help="print it and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(run=partial(_help, parser))

    command = commands.add_parser("list", help="the installed plugins")
    command.add_argument("kind", nargs="?", choices=registry.KINDS, help="of this kind only")
    command.set_defaults(run=_list)

    command = _about_plugin(commands, "describe", "what a plugin does, and its options")
    command.set_defaults(run=_describe)

    command = _about_plugin(commands, "check", "run the contract checks on a plugin")
    command.set_defaults(run=_check)

    command = _about_plugin(commands, "new-plugin", "write an installable plugin with its test")
    command.add_argument("--into", type=Path, default=Path(), help="folder to put it in (default: here)")
    command.set_defaults(run=_new_plugin)

    command = commands.add_parser("doctor", help="what is installed, what is broken, and how to mend it")
    command.set_defaults(run=_doctor)
    return parser


def _about_plugin(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, purpose: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=purpose, description=purpose.capitalize() + ".")
    command.add_argument("kind", choices=registry.KINDS)
    command.add_argument("name", help="such as graph; check also takes options, graph:centroids=random")
    return command


def _help(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    parser.print_help()
    return 2


def _version(given: argparse.Namespace) -> int:
    from importlib.metadata import version

    print(version("castssl"))
    return 0


def _list(given: argparse.Namespace) -> int:
    rows = [("KIND", "NAME", "DISTRIBUTION", "VERSION", "")]
    for kind in [given.kind] if given.kind else registry.KINDS:
        entries = registry.names(kind)
        found = [entry.name for entry in entries]
        for entry in entries:
            twice = "registered twice: see castssl doctor" if found.count(entry.name) > 1 else ""
            rows.append((kind, entry.name, entry.distribution, entry.version, twice or entry.summary))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _describe(given: argparse.Namespace) -> int:
    print(registry.describe(given.kind, given.name))
    return 0


def _check(given: argparse.Namespace) -> int:
    from importlib import import_module

    from rich.console import Console

    # Before the checks: what does not import, or fit, is one error and not one per check.
    registry.bind(given.kind, given.name)
    console = Console()
    with console.status("importing torch"):
        from castssl.testing import claims

        checks = import_module(f"castssl.testing.{given.kind}").checks
    results: list[Result] = []
    with console.status("") as status:
        for check in checks:
            status.update(check.__name__)
            results += claims.run([check], given.name)
    console.print(_verdicts(f"{given.kind} {given.name}", results))
    failed = sum(result.error is not None for result in results)
    console.print(f"{len(results) - failed} of {len(results)} checks passed")
    return 1 if failed else 0


def _verdicts(title: str, results: list[Result]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("check", "verdict", "s", title=escape(title))
    for name, error, seconds in results:
        verdict = "[green]passed[/]"
        if error is not None:
            kind = "" if isinstance(error, CastError) else f"{type(error).__name__}: "
            verdict = f"[red]failed[/]: {escape(f'{kind}{error}')}"
        table.add_row(name.removeprefix("check_").replace("_", " "), verdict, f"{seconds:.1f}")
    return table


def _new_plugin(given: argparse.Namespace) -> int:
    from castssl.scaffold import write

    folder = write(given.kind, given.name, given.into)
    print(f"{folder}: castssl-{given.name}, a {given.kind} plugin that works.  Next:")
    print(f"  pip install -e {folder}")
    print(f"  castssl check {given.kind} {given.name}")
    print(f"  pytest {folder}")
    return 0


def _doctor(given: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape

    from castssl.doctor import examine

    console = Console(soft_wrap=True)
    colours = {"ok": "green", "note": "yellow", "broken": "red"}
    broken = 0
    for topic, state, text, remedy in examine():
        broken += state == "broken"
        console.print(f"[{colours[state]}]{state:<6}[/]  {topic:<20}  {escape(text)}", highlight=False)
        if remedy:
            console.print(f"{'':30}$ {escape(remedy)}", highlight=False)
    console.print(f"{broken} broken" if broken else "nothing that castssl needs is broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
