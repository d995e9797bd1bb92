"""``castssl convert``: published weights become ours, and ours the published layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from castssl.commands.arguments import add_output
from castssl.files import check_outputs


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    purpose = "published weights become ours, and ours the published layout"
    command = commands.add_parser("convert", help=purpose, description=purpose.capitalize() + ".")
    command.add_argument("source", metavar="IN", help="a checkpoint, a run's folder, or hf:USER/NAME")
    add_output(command, "out", metavar="OUT", type=Path, help="the file to write")
    command.add_argument(
        "--layout",
        choices=("castssl", "official"),
        default="castssl",
        help="whose code is to load it (default: castssl)",
    )
    command.add_argument(
        "--which", choices=("base", "momentum"), default="base", help="encoder of a MoCo checkpoint"
    )
    command.add_argument("--ema", action="store_true", help="take model_ema of a DeiT or H-CAST checkpoint")
    command.add_argument(
        "--stage", choices=("pretrain", "segmentation"), help="how a cast_seg works, or cast_deit becomes one"
    )
    command.add_argument("--sizes", type=int, nargs="+", help="token budget per stage")
    command.add_argument("--image-size", type=int, help="resize the position table for this side in pixels")
    command.set_defaults(run=_convert)


def _convert(given: argparse.Namespace) -> int:
    check_outputs([given.out], overwrite=given.overwrite)
    from castssl.checkpoints.convert import convert

    report = convert(
        given.source,
        given.out,
        layout=given.layout,
        which=given.which,
        ema=given.ema,
        stage=given.stage,
        sizes=given.sizes,
        image_size=given.image_size,
    )
    print(report)
    print(f"wrote {given.out}")
    return 0
