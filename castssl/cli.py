"""The command ``castssl``: each subcommand is a thin call into a room, which it imports when it runs.

A distribution adds a subcommand by an entry point of the group ``castssl.commands``: a function that takes
the arguments behind its name and returns the exit code.  It is imported only when its name is typed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from importlib import metadata

from castssl.commands import ALL
from castssl.errors import CastError
from castssl.system_errors import explain
from castssl.terminal import ignore_closed_streams

GROUP = "castssl.commands"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        The exit code: 0, 1 if something failed, 2 if the command line is wrong, or 130 after Ctrl-C.
    """
    ignore_closed_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    added = {point.name: point for point in metadata.entry_points(group=GROUP)}
    try:
        if words and words[0] in added:
            return int(added[words[0]].load()(words[1:]))
        args = parser(added.values()).parse_args(words)
        code: int = args.run(args)
    except CastError as error:
        print(f"castssl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("castssl: stopped; each file that was written is complete", file=sys.stderr)
        return 130
    except (RuntimeError, OSError) as error:
        if not (fault := explain(error)):
            raise
        print(f"castssl: {fault}", file=sys.stderr)
        return 1
    return code


def parser(added: Iterable[metadata.EntryPoint] = ()) -> argparse.ArgumentParser:
    """The whole command line, with a parser for each subcommand, and the names of those that plugins add."""
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
    for point in added:
        summary = point.dist.metadata["Summary"] if point.dist else ""
        commands.add_parser(point.name, help=summary, add_help=False)
    return parser


def _help(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    parser.print_help()
    return 2


def _version(args: argparse.Namespace) -> int:
    print(metadata.version("castssl"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
