"""``castssl convert``: weights from the published layout to castssl's, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from castssl.commands.arguments import SIZES, Commands, add_output, subcommand
from castssl.outputs import check_outputs

OPTIONS = ("layout", "which", "ema", "stage", "sizes", "image_size")


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "convert weights between the published layout and castssl's"
    command = subcommand(commands, "convert", purpose, _convert)
    command.add_argument("source", metavar="IN", help="a checkpoint, a run's folder, or hf:USER/NAME")
    add_output(command, "out", metavar="OUT", type=Path, help="the file to write")
    layout = "the code that loads the file (default: castssl)"
    command.add_argument("--layout", choices=("castssl", "official"), default="castssl", help=layout)
    which = "encoder of a MoCo checkpoint"
    command.add_argument("--which", choices=("base", "momentum"), default="base", help=which)
    command.add_argument("--ema", action="store_true", help="take model_ema of a DeiT or H-CAST checkpoint")
    stage = "how a cast_seg works, or how a cast_deit becomes one"
    command.add_argument("--stage", choices=("pretrain", "segmentation"), help=stage)
    command.add_argument("--sizes", type=int, nargs="+", help=SIZES)
    command.add_argument("--image-size", type=int, help="resize the position table for this side in pixels")


def _convert(args: argparse.Namespace) -> int:
    check_outputs([args.out], overwrite=args.overwrite)
    from castssl.checkpoints.convert import convert

    print(convert(args.source, args.out, **{name: getattr(args, name) for name in OPTIONS}))
    print(f"wrote {args.out}")
    return 0
