"""The command line that all studies share; importing it costs nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

LEAVES = "DIR receives table.md (with each cell's command), cells.csv, table.png, and a folder a run."


ALLOW = "--allow-commands"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the leave to run commands that names of data hold, which only the command line gives."""
    text = "run pipe:COMMAND in the name of data, and read what it prints"
    parser.add_argument(ALLOW, action="store_true", help=text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what every study understands."""
    parser.epilog = LEAVES
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/ablations/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace files that no study made")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument(
        "--cluster",
        choices=("local", "slurm"),
        default="local",
        help="where submitit runs them (default: local, this machine)",
    )
    parser.add_argument(
        "--job", action="append", default=[], metavar="KEY=VALUE", help="submitit's, as gpus_per_node=8"
    )
    parser.add_argument("--launcher", default="", metavar="'COMMAND'", help="such as 'accelerate launch'")
    add_commands(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    parser.add_argument("--no-cost", action="store_true", help="leave out GFLOPs and ms")
    parser.add_argument("rest", nargs="*", metavar="-- FLAGS", help="arguments of every run of the recipe")
