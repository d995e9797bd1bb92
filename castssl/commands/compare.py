"""``castssl compare``: the segments of several methods, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from castssl.commands.arguments import (
    Commands,
    add_output,
    names_below,
    or_none,
    picture,
    save_picture,
    subcommand,
)
from castssl.errors import ConfigError
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from PIL import Image

    from castssl.segmenter import Segmenter

NOTES = """One row per image: the image, then for each segmenter its coarsest levels, fine to coarse, at the
size of the image.  Parts are shades of their whole.  CAST's Fig. 5, with a CAST and a ViT of the same
pretraining:

  castssl compare photo.jpg --segmenter cast:RUN kmeans:VIT-RUN --out fig5.png

Two segmenters of one kind have numbers, in the order of SPEC.
SPEC is NAME:SOURCE,key=value,..., such as cast:RUN,device=cpu; "castssl list segmenters" has the names, and
"castssl describe segmenters NAME" the options.
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "the segments of several methods, side by side in one picture"
    command = subcommand(commands, "compare", purpose, _compare, NOTES)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image file")
    spec = "one or more, such as cast:RUN kmeans:RUN merge"
    command.add_argument("--segmenter", nargs="+", action="extend", required=True, metavar="SPEC", help=spec)
    out = "the picture, such as grid.png"
    add_output(command, "--out", required=True, type=picture, metavar="FILE", help=out)
    levels = "of each segmenter, from the coarsest (default: 3)"
    command.add_argument("--levels", type=int, default=3, metavar="N", help=levels)
    panel = "height of an image in the picture (default: the image's own)"
    command.add_argument("--panel", type=int, metavar="PIXELS", help=panel)


def _compare(args: argparse.Namespace) -> int:
    from castssl.registry import build_segmenter
    from castssl.visualization.draw import sheet

    if args.levels < 1 or (args.panel is not None and args.panel < 16):
        raise ConfigError("--levels is 1 or more, and --panel 16 pixels or more")
    check_outputs([args.out], overwrite=args.overwrite)
    segmenters = dict(zip(_names(args.segmenter), map(build_segmenter, args.segmenter), strict=True))
    draw = partial(_row, segmenters=segmenters, levels=args.levels, panel=args.panel)
    names = names_below(args.images)
    rows = [or_none(partial(draw, image, names[image])) for image in args.images]
    drawn = [row for row in rows if row is not None]
    if drawn:
        save_picture(sheet(drawn), args.out)
    for name, spec in zip(segmenters, args.segmenter, strict=True):
        print(f"{name}: {spec}")
    print(f"{len(drawn)} of {len(rows)} images segmented" + (f", in {args.out}" if drawn else ""))
    return 0 if len(drawn) == len(rows) else 1


def _names(specs: Sequence[str]) -> list[str]:
    """The kinds of segmenters, with numbers where a kind occurs more than once."""
    kinds = [spec.partition(":")[0] for spec in specs]
    return [
        f"{kind} {kinds[: place + 1].count(kind)}" if kinds.count(kind) > 1 else kind
        for place, kind in enumerate(kinds)
    ]


def _row(
    path: Path, stored: str, segmenters: Mapping[str, Segmenter], levels: int, panel: int | None
) -> Image.Image:
    """An image and its segmentations."""
    import numpy as np
    import torch

    from castssl.inference.photos import read_photo
    from castssl.segmenter import label_maps
    from castssl.visualization.draw import draw_levels

    photo = read_photo(path)
    maps = {
        name: [*torch.from_numpy(label_maps(segmenter, np.array(photo), stored))[-levels:]]
        for name, segmenter in segmenters.items()
    }
    return draw_levels(photo, maps, panel=panel)
