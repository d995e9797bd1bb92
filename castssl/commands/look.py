"""``castssl look``: a page that shows images' segments, from fine to coarse, in any browser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from castssl.commands.arguments import (
    Commands,
    add_output,
    add_reading,
    add_tree,
    device_of,
    label_tree,
    names_below,
    or_none,
    progress,
    short_names,
    subcommand,
    value_range,
)
from castssl.errors import ConfigError, DataError, PluginError
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from castssl.datasets.depth import Range
    from castssl.inference.look import Finder
    from castssl.visualization.page import Shown

MOST = 3
"""Models side by side."""
NOTES = """PAGE.html is one file without links, which opens without a network.  Its images contain only
pixels, at most 1024 per side.  A slider merges the segments of an image one by one, from the finest to one,
in the order of the similarity of their features and inside the model's own levels.  Point at a segment for
its area, parents and children, and with a classifier also for its contribution to each class (as in castssl
predict, but for the whole image, at the training size).

WEIGHTS is a run's folder, encoder.safetensors, a checkpoint, hf:USER/NAME, or a segmenter of
castssl list segmenters, such as merge or kmeans:timm:NAME, whose segments merge by their mean colors.
A published H-CAST contains no class names; --tree DATA takes them from its training data.
The exit code is 1 if an image could not be read.
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "an HTML page that merges the segments of images from fine to coarse"
    command = subcommand(commands, "look", purpose, _look, NOTES)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files of any size")
    weights = "one to three models, side by side"
    command.add_argument(
        "--weights", nargs="+", action="extend", required=True, metavar="WEIGHTS", help=weights
    )
    add_output(command, "--html", dest="out", required=True, type=Path, metavar="PAGE.html", help="the page")
    side = "shorter side of a model's input (default: the image's own, 128 to 384; of a classifier its own)"
    command.add_argument("--image-size", type=int, metavar="PIXELS", help=side)
    command.add_argument("--superpixels", metavar="SPEC", help="such as seeds (default: trained with)")
    add_tree(command)
    add_reading(command)


def _look(args: argparse.Namespace) -> int:
    from castssl.visualization.page import write_page

    if len(args.weights) > MOST:
        raise ConfigError(f"--weights: got {len(args.weights)} models, expected at most {MOST}")
    check_outputs([args.out], overwrite=args.overwrite)
    finders = [_finder(source, args) for source in args.weights]
    paths = [Path(source) for source in args.weights]
    named = short_names(paths)
    titles = [named[path] if path.exists() else str(path) for path in paths]
    count = write_page(args.out, titles, _images(args.images, finders, value_range(args)))
    print(f"{args.out}: {count} of {len(args.images)} images, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0 if count == len(args.images) else 1


def _finder(source: str, args: argparse.Namespace) -> Finder:
    """What finds the segments of ``--weights``: a segmenter's name, or weights."""
    from castssl.inference.load import load
    from castssl.inference.look import of_model, of_segmenter
    from castssl.registry import build_segmenter, names

    name = source.partition(":")[0]
    if not Path(source).exists() and any(entry.name == name for entry in names("segmenters")):
        return of_segmenter(build_segmenter(source))
    model = load(source, labels=label_tree(args), device=device_of(args))
    options = {"superpixels": args.superpixels, "image_size": args.image_size}
    try:
        return of_model(model.classifier.objective.encoder, model.classifier, **options)
    except (DataError, PluginError) as error:
        print(f"castssl: no classes are shown: {error}", file=sys.stderr)
    return of_model(model.encoder, **options)


def _images(paths: Sequence[Path], finders: Sequence[Finder], declared: Range | None) -> Iterator[Shown]:
    """The readable ones, each computed when the page takes it."""
    names, titles = names_below(paths), short_names(paths)
    with progress(len(paths), "images") as report:
        report(0)
        for done, path in enumerate(paths, start=1):
            shown = or_none(partial(_shown, path, titles[path], names[path], finders, declared))
            if shown is not None:
                yield shown
            report(done)


def _shown(path: Path, title: str, name: str, finders: Sequence[Finder], declared: Range | None) -> Shown:
    from castssl.inference.photos import read_photo
    from castssl.visualization.page import Shown

    photo = read_photo(path, declared)
    return Shown(title, photo, [find(photo, name) for find in finders])
