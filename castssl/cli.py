"""The command ``castssl``: each subcommand is a thin call into a room, which it imports when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from castssl.commands import ALL
from castssl.errors import CastError
from castssl.system_errors import explain
from castssl.terminal import ignore_closed_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code is 0, 1 if something failed, or 2 if the command line is wrong."""
    ignore_closed_streams()
    args = parser().parse_args(arguments)
    try:
        code: int = args.run(args)
    except CastError as error:
        print(f"castssl: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, OSError) as error:
        if not (fault := explain(error)):
            raise
        print(f"castssl: {fault}", file=sys.stderr)
        return 1
    return code


def parser() -> argparse.ArgumentParser:
    """The whole command line, with a parser for each subcommand."""
    parser = argparse.ArgumentParser(
        "castssl", description="Vision transformers whose tokens are superpixels."
    )
    parser.add_argument(
        "--version", action="store_const", dest="run", const=_version, help="print it and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(run=partial(_help, parser))
    for command in ALL:
        command.add(commands)
    return parser


def _help(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    parser.print_help()
    return 2


def _version(args: argparse.Namespace) -> int:
    from importlib.metadata import version

    print(version("castssl"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
