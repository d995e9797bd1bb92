"""``castssl features``: the features of all images of a folder or a data set, in one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from castssl.ablations.grid import add_commands
from castssl.commands.arguments import (
    Commands,
    add_batches,
    add_output,
    add_reading,
    add_shape,
    device_of,
    open_indexed,
    progress,
    subcommand,
    superpixels_of,
)
from castssl.errors import ConfigError, printable

NOTES = """OUT.npz holds, for the n readable images in the order of their paths:
  paths            (n,), below the folder
  labels           int64 (n, levels), classes coarse to fine, -1 unknown; "about" has their names;
                   of images with many labels (n, classes): 1 present, 0 absent, -1 unknown
  image            float32 (n, D): what kNN and a linear probe read
  segments3, ...   float32 (n, K, D), one row for each segment of stage 3
  mass3, ...       float32 (n, K), the cells of each segment; 0 is a row without pixels
  about            JSON: the settings, the names of the classes, the unreadable images with reasons
OUT.parquet has the same columns (path, label0, ..., flat lists of floats; "shapes" is in its metadata).

Images are prepared as in the evaluations of the recipes: a center crop of 224/256 of the shorter side,
resized to the training size.  After Ctrl-C or kill the same command continues from OUT.parts.  A file that
castssl features did not write is replaced only with --overwrite.  The exit code is 1 if an image could not be
read, 130 after Ctrl-C.
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "write the features of images and of their segments to a file"
    command = subcommand(commands, "features", purpose, _features, NOTES)
    command.add_argument(
        "data", metavar="DIR", help="a folder of images, or a name of data such as tar:/x.tar"
    )
    weights = "a run's folder, encoder.safetensors, a checkpoint, or hf:USER/NAME"
    command.add_argument("--weights", required=True, help=weights)
    add_output(command, "--out", required=True, type=Path, metavar="OUT", help="a .npz or .parquet file")
    split = "of a folder that has splits: train, val or test (default: train)"
    command.add_argument("--split", default="train", help=split)
    stages = "stages whose segments are kept, 0 the finest (default: -1, the coarsest)"
    command.add_argument("--stages", nargs="*", type=int, default=[-1], metavar="N", help=stages)
    add_shape(command, "side of the view (default: trained with)")
    add_batches(command)
    add_commands(command)
    add_reading(command)


def _features(args: argparse.Namespace) -> int:
    from castssl.data.evaluation_views import CenterView
    from castssl.inference.extract import Job, extract
    from castssl.inference.load import load
    from castssl.models.sizes import sizes_for, with_sizes
    from castssl.registry import build
    from castssl.training.progress import free_cores

    model = load(args.weights, device=device_of(args))
    encoder = model.encoder
    images = open_indexed(args, encoder.config.channels)
    side, superpixels = args.image_size or encoder.config.image_size, superpixels_of(args, encoder)
    if encoder.uses_superpixels:
        capacity = build("superpixels", superpixels).capacity(side, side)
        if capacity > encoder.sizes[0]:
            encoder = with_sizes(encoder, sizes_for(encoder, capacity))
    levels = len(encoder.sizes)
    if not all(-levels <= stage < levels for stage in args.stages):
        raise ConfigError(f"--stages: got {args.stages}, but the model has the stages 0 to {levels - 1}")
    workers = free_cores() + 1 if args.workers is None else args.workers
    center = CenterView(side, interpolation=model.interpolation)
    stages = tuple(sorted({stage % levels for stage in args.stages}))
    job = Job(images, encoder, superpixels, center, stages, args.batch_size, workers)
    with progress(len(images), "images") as report:
        done = extract(job, args.out, overwrite=args.overwrite, report=report)
    for name, reason in done.unreadable.items():
        print(printable(f"unreadable: {name} ({reason})"))
    if not done.finished:
        print("interrupted; the same command continues")
        return 130
    count = len(done.unreadable)
    print(f"{args.out}: {done.images - count} of {done.images} images, {count} unreadable")
    return 1 if count else 0
