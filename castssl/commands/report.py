"""``castssl report``: runs or a study as one page for any browser."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from castssl.commands.arguments import Commands, add_output, or_none, progress, short_names, subcommand
from castssl.errors import ConfigError, printable
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from PIL import Image

    from castssl.reports.gather import Gathered

NOTES = """PAGE.html is one file that opens without a network: curves, the final table with chance and
untrained, hierarchies of fixed images through training, pictures, settings and what differs between the runs,
environments, commands; for a study also its tables and a chart of its seeds.

RUN is the folder of a run in any state, a folder of runs, or that of a study (castssl ablate).
Hierarchies show the packaged photographs and three held-out images of the first run, or --images, with the
weights that the first three runs kept; a run keeps two checkpoints, or as many as its flag --keep.
The run's config.json names the data of the held-out images, and a remark tells of it: give --no-held-out for
a run of someone else, whose settings may name images of yours that the page must not hold.
The exit code is 1 if an image of --images could not be read.

examples:
  castssl report runs/moco_in1k-demo-0
  castssl report runs/first runs/second --out comparison.html --images photo.jpg
  castssl report runs/ablations/pooling --no-images --out study.html
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "a page of runs or of a study: curves, results, hierarchies, settings"
    command = subcommand(commands, "report", purpose, _report, NOTES)
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs or studies")
    page = "the page (default: report.html)"
    add_output(command, "--out", type=Path, default=Path("report.html"), metavar="PAGE.html", help=page)
    images = command.add_mutually_exclusive_group()
    text = "what the runs' encoders segment (default: photographs and held-out images)"
    images.add_argument("--images", nargs="+", type=Path, metavar="IMAGE", help=text)
    text = "segment the packaged photographs alone: read no data that the runs' settings name"
    images.add_argument("--no-held-out", action="store_true", help=text)
    images.add_argument("--no-images", action="store_true", help="leave the hierarchies out")


def _report(args: argparse.Namespace) -> int:
    from castssl.reports.gather import gather
    from castssl.reports.write import write

    if missing := [str(path) for path in args.runs if not path.is_dir()]:
        raise ConfigError(f"there is no folder {missing[0]}; give one that holds runs, such as runs")
    check_outputs([args.out], overwrite=args.overwrite)
    found = gather(args.runs)
    photos, remarks = _photos(args, found)
    for remark in write(args.out, found, photos, remarks, progress):
        print(f"castssl: {printable(remark)}", file=sys.stderr)
    runs, studies = len(found.runs), len(found.studies)
    counts = f"{runs} run{'s' * (runs != 1)}" + (
        f", {studies} stud{'y' if studies == 1 else 'ies'}" * bool(studies)
    )
    print(f"{args.out}: {counts}, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0 if not args.images or len(photos) == len(args.images) else 1


def _photos(args: argparse.Namespace, found: Gathered) -> tuple[list[tuple[str, Image.Image]], list[str]]:
    """Name and image of what is segmented, and remarks on where it is from and what is missing."""
    from castssl.inference.photos import read_photo
    from castssl.reports.hierarchies import images

    if args.no_images or not found.runs:
        return [], []
    if not args.images:
        return images(found.runs, held_out=not args.no_held_out)
    named = short_names(args.images)
    read = [(named[path], or_none(partial(read_photo, path))) for path in args.images]
    return [(name, photo) for name, photo in read if photo is not None], []
