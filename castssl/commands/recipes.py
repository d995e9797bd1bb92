"""``castssl run`` and ``castssl copy-recipe``: the recipes that are installed with castssl."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from castssl.commands.arguments import Commands, add_output, subcommand
from castssl.errors import ConfigError
from castssl.files import write_text
from castssl.outputs import check_outputs
from castssl.registry import did_you_mean
from castssl.shipped import programs, recipe, recipe_names

USAGE = "castssl run [OPTIONS OF accelerate launch] RECIPE [FLAGS OF THE RECIPE]"
NOTES = """Options before RECIPE start it with accelerate launch.

examples:
  castssl run moco_in1k --help
  castssl run moco_in1k --data demo --model nano --image-size 64
  castssl run --num_processes 8 --mixed_precision bf16 moco_in1k --data folder:/path/to/imagenet
  castssl run --config_file launch/fsdp.yaml --num_processes 8 moco_in1k --data folder:/path/to/imagenet
"""


def add(commands: Commands) -> None:
    """Add both to the command line."""
    # No character begins an option of this parser: all options are for the recipe or the launcher.
    options = {"prefix_chars": "\0", "add_help": False, "usage": USAGE}
    command = subcommand(commands, "run", "run a recipe, by name or as a file", _run, NOTES, **options)
    command.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    command.set_defaults(help=command.format_help)
    copying = subcommand(commands, "copy-recipe", "copy a recipe, to change it", _copy)
    names = "such as moco_in1k; `castssl run --help` lists all; or a launch file such as launch/slurm.sbatch"
    copying.add_argument("name", help=names)
    add_output(copying, "into", nargs="?", metavar="DIR", type=Path, default=Path(), help="default: here")


def _run(args: argparse.Namespace) -> int:
    """Replace this process by that of the recipe, which so receives all signals and sets the exit code."""
    words: list[str] = args.words
    runnable = programs()
    place = next((i for i, word in enumerate(words) if word in runnable or word.endswith(".py")), None)
    if place is None:
        if words and not {"-h", "--help"} & set(words):
            recipe(_meant(words, runnable))
        print(args.help(), "recipes:", *(f"  {name}" for name in runnable), sep="\n")
        return 0
    # The names of launch files are options of the launcher.
    names = recipe_names()
    launcher = [str(recipe(word, runs=False)) if word in names else word for word in words[:place]]
    start = ["-m", "accelerate.commands.launch", *launcher] if launcher else []
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *start, str(recipe(words[place])), *words[place + 1 :]])


def _meant(words: list[str], runnable: list[str]) -> str:
    """The word that probably names a recipe: one that is similar to a name, or the first non-option.

    Raises:
        ConfigError: if all words may be options and their values.
    """
    similar = next((word for word in words if did_you_mean(word, runnable)), None)
    if similar is None and words[0].startswith("-"):
        raise ConfigError(f"got no recipe, only {' '.join(words)}; `castssl run --help` lists the recipes")
    return similar or words[0]


def _copy(args: argparse.Namespace) -> int:
    source = recipe(args.name, runs=False)
    target: Path = args.into / source.name
    check_outputs([target], overwrite=args.overwrite)
    write_text(target, source.read_text(encoding="utf-8"), "recipe")
    print(f"wrote {target}")
    return 0
