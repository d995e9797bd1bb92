"""``castssl ablate``: a table over a grid of a recipe's flags, without writing a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from castssl.ablations.grid import LEAVES, Study, add_flags, parse, split
from castssl.commands.arguments import Commands, subcommand
from castssl.shipped import recipe

EXAMPLE = """example:
  castssl ablate --recipe moco_in1k --grid pooling=graph,tome --grid seed=0,1,2 -- --data demo --epochs 8
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "run a grid over a recipe's flags and write its table"
    command = subcommand(commands, "ablate", purpose, _ablate, f"{LEAVES}\n\n{EXAMPLE}")
    shipped = "such as moco_in1k, or a file that ends in .py; castssl run --help lists all"
    command.add_argument("--recipe", required=True, help=shipped)
    grid = "a flag and its values; several make a product; seed=0,1,2 are repetitions of one row"
    values = "KEY=VALUE,VALUE,..."
    command.add_argument("--grid", action="append", required=True, metavar=values, help=grid)
    command.add_argument("--then", help="a recipe to run on each encoder, such as probe_in1k")
    command.add_argument("--then-flags", default="", metavar="'FLAGS'", help="its arguments")
    add_flags(command)


def _ablate(args: argparse.Namespace) -> int:
    from castssl.ablations.study import conduct

    name = Path(args.recipe).stem
    study = Study(
        title=f"{name}: {', '.join(args.grid)}",
        recipe=recipe(args.recipe),
        grid=parse(args.grid),
        flags=args.rest,
        then=recipe(args.then) if args.then else None,
        then_flags=split(args.then_flags, "--then-flags"),
    )
    return conduct(study, args, name)
