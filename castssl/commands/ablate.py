"""``castssl ablate``: a table over a grid of a recipe's flags, without writing a file."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """example:
  castssl ablate --recipe moco_in1k --grid pooling=graph,tome --grid seed=0,1,2 -- --data demo --epochs 8
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    purpose = "run a grid over a recipe's flags and write its table"
    command = commands.add_parser(
        "ablate",
        help=purpose,
        description=f"{purpose.capitalize()}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--recipe", required=True, help="such as moco_in1k (recipes/moco_in1k.py), or a file"
    )
    command.add_argument(
        "--grid",
        action="append",
        required=True,
        metavar="KEY=VALUE,VALUE,...",
        help="a flag and its values; several make a product; seed=0,1,2 are repetitions of one row",
    )
    command.add_argument("--then", help="a recipe to run on each encoder, such as probe_in1k")
    command.add_argument("--then-flags", default="", metavar="'FLAGS'", help="its arguments")
    command.add_argument("--show", nargs="+", default=(), metavar="NAME", help="which results (default: all)")
    _add_flags(command)
    command.set_defaults(run=_ablate)


def _add_flags(command: argparse.ArgumentParser) -> None:
    from castssl.ablations.grid import add_flags

    add_flags(command)
    command.epilog = f"{command.epilog}\n\n{EXAMPLE}"


def _ablate(given: argparse.Namespace) -> int:
    import shlex

    from castssl.ablations.grid import Study, parse
    from castssl.ablations.study import conduct

    study = Study(
        title=f"{Path(given.recipe).stem}: {', '.join(given.grid)}",
        recipe=_file(given.recipe),
        grid=parse(given.grid),
        flags=given.rest,
        then=_file(given.then) if given.then else None,
        then_flags=shlex.split(given.then_flags),
        show=given.show,
    )
    return conduct(study, given, f"{Path(given.recipe).stem}")


def _file(recipe: str) -> Path:
    path = Path(recipe)
    return path if path.suffix == ".py" else Path("recipes") / f"{recipe}.py"
