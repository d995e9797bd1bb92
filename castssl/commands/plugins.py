"""``castssl list``, ``describe``, ``check``, ``new-plugin``: what is installed, and does it conform."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from castssl import registry
from castssl.commands import check_run
from castssl.commands.arguments import Commands, add_output, subcommand
from castssl.errors import CastError, ConfigError
from castssl.installer import install

if TYPE_CHECKING:
    from rich.table import Table

    from castssl.testing.claims import Result


def add(commands: Commands) -> None:
    """Add the four to the command line."""
    command = subcommand(commands, "list", "the installed plugins", _list)
    command.add_argument("kind", nargs="?", choices=registry.KINDS, help="of this kind only")
    command = subcommand(commands, "describe", "what a plugin does, and its options", _describe)
    command.add_argument("kind", choices=registry.KINDS)
    command.add_argument("name", help="such as graph")
    purpose = "run the contract checks on a plugin, or check the run of a recipe"
    kinds = commands.add_parser("check", help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    parsers = kinds.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind in registry.KINDS:
        command = subcommand(parsers, kind, f"the contract checks of {kind}", _check)
        more = "with options, graph:centroids=random, and what to open or build, timm:resnet18"
        command.add_argument("name", help=f"such as graph; {more}")
    check_run.add(parsers)
    command = subcommand(commands, "new-plugin", "write an installable plugin with its test", _new_plugin)
    command.add_argument("kind", choices=registry.KINDS)
    command.add_argument("name", help="such as mine")
    add_output(command, "--into", type=Path, default=Path(), help="folder to put it in (default: here)")


def _list(args: argparse.Namespace) -> int:
    rows = [("KIND", "NAME", "DISTRIBUTION", "VERSION", "")]
    for kind in [args.kind] if args.kind else registry.KINDS:
        entries = registry.names(kind)
        names = [entry.name for entry in entries]
        for entry in entries:
            twice = "registered twice: see castssl doctor" if names.count(entry.name) > 1 else ""
            rows.append((kind, entry.name, entry.distribution, entry.version, twice))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _describe(args: argparse.Namespace) -> int:
    print(registry.describe(args.kind, args.name))
    return 0


def _check(args: argparse.Namespace) -> int:
    from importlib import import_module

    from rich.console import Console

    # Before the checks: what does not import, or fit, is one error and not one per check.
    no_options = args.kind in ("datasets", "encoders", "segmenters")
    registry.bind(args.kind, args.name.partition(":")[0] if no_options else args.name)
    console = Console()
    with console.status("importing torch"):
        from castssl.testing import claims

        checks = import_module(f"castssl.testing.{args.kind}").checks
    results: list[Result] = []
    with console.status("") as status:
        for check in checks:
            status.update(check.__name__)
            results += claims.run([check], args.name)
            if isinstance(results[-1].error, ConfigError):
                raise results[-1].error  # Nothing was checked.
    console.print(_verdicts(f"{args.kind} {args.name}", results))
    failed = sum(result.error is not None for result in results)
    console.print(f"{len(results) - failed} of {len(results)} checks passed")
    return 1 if failed else 0


def _verdicts(title: str, results: list[Result]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from castssl.testing.faults import described

    table = Table("check", "verdict", "s", title=escape(title))
    for name, error, seconds, promise in results:
        verdict = "[green]passed[/]"
        if error is not None:
            text = str(error)
            if not isinstance(error, CastError):  # It has no words of a check.
                text = (
                    f"{described(error)}; expected no error: {promise} Correct this line, or what leads to it"
                )
            verdict = f"[red]failed[/]: {escape(text)}"
        table.add_row(name.removeprefix("check_").replace("_", " "), verdict, f"{seconds:.1f}")
    return table


def _new_plugin(args: argparse.Namespace) -> int:
    from castssl.commands.scaffold import write

    folder = write(args.kind, args.name, args.into, overwrite=args.overwrite)
    print(f"{folder}: castssl-{args.name}, a {args.kind} plugin that works.  Next:")
    print(f"  {install(str(folder), options='-e')}")
    print(f"  castssl check {args.kind} {args.name}")
    print(f"  pytest {folder}")
    return 0
