"""``castssl list``, ``describe``, ``check``, ``new-plugin``: what is installed, and does it conform."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from castssl import registry
from castssl.commands.arguments import add_output
from castssl.errors import CastError, ConfigError
from castssl.installer import install

if TYPE_CHECKING:
    from rich.table import Table

    from castssl.testing.claims import Result


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the four to the command line."""
    command = commands.add_parser("list", help="the installed plugins")
    command.add_argument("kind", nargs="?", choices=registry.KINDS, help="of this kind only")
    command.set_defaults(run=_list)

    command = _about_plugin(commands, "describe", "what a plugin does, and its options")
    command.set_defaults(run=_describe)

    command = _about_plugin(commands, "check", "run the contract checks on a plugin")
    command.set_defaults(run=_check)

    command = _about_plugin(commands, "new-plugin", "write an installable plugin with its test")
    add_output(command, "--into", type=Path, default=Path(), help="folder to put it in (default: here)")
    command.set_defaults(run=_new_plugin)


def _about_plugin(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, purpose: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=purpose, description=purpose.capitalize() + ".")
    command.add_argument("kind", choices=registry.KINDS)
    more = "check also takes options, graph:centroids=random, and what to open or build, timm:resnet18"
    command.add_argument("name", help=f"such as graph; {more}")
    return command


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
    whole = given.kind in ("datasets", "encoders")  # What follows the colon is no option.
    registry.bind(given.kind, given.name.partition(":")[0] if whole else given.name)
    console = Console()
    with console.status("importing torch"):
        from castssl.testing import claims

        checks = import_module(f"castssl.testing.{given.kind}").checks
    results: list[Result] = []
    with console.status("") as status:
        for check in checks:
            status.update(check.__name__)
            results += claims.run([check], given.name)
            if isinstance(results[-1].error, ConfigError):
                raise results[-1].error  # Nothing was checked.
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

    folder = write(given.kind, given.name, given.into, overwrite=given.overwrite)
    print(f"{folder}: castssl-{given.name}, a {given.kind} plugin that works.  Next:")
    print(f"  {install(str(folder), options='-e')}")
    print(f"  castssl check {given.kind} {given.name}")
    print(f"  pytest {folder}")
    return 0
