"""``castssl adapt``: segments before and after test-time adaptation, on images with masks."""

from __future__ import annotations

import argparse
from math import inf, isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING

from castssl.ablations.grid import add_commands
from castssl.commands.arguments import (
    Commands,
    add_batches,
    add_output,
    add_reading,
    device_of,
    subcommand,
    table,
    value_range,
)
from castssl.errors import ConfigError, NoSplit
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from castssl.data.splits import Splits
    from castssl.evaluation.adaptation import Gain
    from castssl.inference.adapt import Measured
    from castssl.labels import LabelTree

NOTES = """CAST, appendix C and Fig. 9.  A class vector is the direction of the mean unit feature of a class's
training images; the logits are cosines divided by the temperature.  For each held-out image, one SGD step on
the affine parameters of the norm layers reduces the entropy of its softmax; then it is segmented again.

before       the weights as they are
adapted      after the step
random step  after a step in a random direction that moves each parameter by the same distance
Region IoU labels each segment as object or background by the true mask, as the paper does.

With --out, DIR receives
  results.json      the table as shares, 0 to 1, and the gains in region IoU of the coarsest segments
  images.csv        prediction, probability and region IoU of each image
  before-after.png  region IoU before and after, a point for each image (needs matplotlib)
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "segments before and after test-time adaptation, on held-out images with masks"
    command = subcommand(commands, "adapt", purpose, _adapt, NOTES)
    command.add_argument("data", metavar="DATA", help="labeled images with masks: demo, folder:/path, ...")
    command.add_argument("--weights", required=True, help="a run's folder, encoder.safetensors or checkpoint")
    add_output(command, "--out", type=Path, metavar="DIR", help="where the files go (default: only print)")
    one = "tell this class from all others, and measure its images alone (default: all classes)"
    command.add_argument("--class", dest="positive", metavar="NAME", help=one)
    command.add_argument("--masks", metavar="PATH", help="a folder, or a JSON file as PartImageNet's")
    steps = "SGD steps (default: 1)"
    command.add_argument("--steps", type=int, default=1, metavar="N", help=steps)
    command.add_argument("--rate", type=float, default=1.0, metavar="R", help="learning rate (default: 1)")
    command.add_argument("--temperature", type=float, default=0.07, metavar="T", help="(default: 0.07)")
    statistics = "of the batch norms in the stem: from training, or from each image (default: running)"
    command.add_argument("--statistics", choices=("running", "image"), default="running", help=statistics)
    command.add_argument("--image-size", type=int, metavar="PIXELS", help="side (default: trained with)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of random steps (default: 0)")
    add_batches(command)
    add_commands(command)
    add_reading(command)


def _adapt(args: argparse.Namespace) -> int:
    from castssl.data.evaluation_views import CenterView
    from castssl.evaluation.adaptation import Adaptation, Settings
    from castssl.inference.adapt import FILES, measure, write
    from castssl.inference.load import load
    from castssl.registry import build_superpixels
    from castssl.training.progress import free_cores

    if args.steps < 0 or not 0 < args.temperature < inf or not isfinite(args.rate):
        raise ConfigError(
            f"--steps {args.steps} --temperature {args.temperature:g} --rate {args.rate:g}: expected steps of"
            " 0 or more, a positive temperature and a finite rate"
        )
    if args.out:
        check_outputs([args.out / name for name in FILES], overwrite=args.overwrite)
    model = load(args.weights, device=device_of(args))
    encoder = model.encoder
    data = _open(args, encoder.config.channels)
    settings = Settings(
        steps=args.steps, rate=args.rate, temperature=args.temperature, statistics=args.statistics
    )
    tree = data.train.tree
    positive = None if args.positive is None else _number(args.positive, tree)
    measured = measure(
        encoder,
        data,
        Adaptation(encoder.sizes, args.masks, settings=settings, positive=positive),
        superpixels=build_superpixels(encoder.config),
        view=CenterView(args.image_size or encoder.config.image_size, interpolation=model.interpolation),
        device=device_of(args),
        batch_size=args.batch_size,
        workers=free_cores() + 1 if args.workers is None else args.workers,
        seed=args.seed,
    )
    _print(measured)
    if args.out:
        write(measured, args.out, tree)
        print(f"files: {args.out}")
    return 0


def _open(args: argparse.Namespace, channels: int) -> Splits:
    """The images for the class vectors, and those that are measured.

    Raises:
        ConfigError: if they are a stream, or there is no held-out split.
    """
    from dataclasses import replace

    from castssl.data.splits import open_splits
    from castssl.datasets.images import Images

    spec = f"folder:{args.data}" if Path(args.data).expanduser().is_dir() else args.data
    try:
        data = open_splits(spec, commands=args.allow_commands, channels=channels)
    except NoSplit as error:
        raise ConfigError(
            f"{args.data}: castssl adapt takes class vectors from the train split and measures the val split;"
            " expected images in train/CLASS and val/CLASS, and masks in masks/val/CLASS"
        ) from error
    if not isinstance(data.train, Images) or not isinstance(data.held_out, Images):
        raise ConfigError(f"{args.data} is a stream, whose images have no masks; give folder: or demo")
    if declared := value_range(args):
        train, held_out = (replace(images, declared=declared) for images in (data.train, data.held_out))
        data = data._replace(train=train, held_out=held_out)
    return data


def _number(name: str, tree: LabelTree) -> int:
    """The number of a class of the finest level.

    Raises:
        ConfigError: if there is none of this name.
    """
    names = list(tree.names[-1]) if tree.names else []
    if name not in names:
        some = ", ".join(names[:8]) or "none"
        raise ConfigError(f"--class {name}: the finest level has no such class; it has {some}")
    return names.index(name)


def _print(measured: Measured) -> None:
    from rich.console import Console

    from castssl.evaluation import report

    console, gains = Console(), measured.gains
    console.print(report.table(**measured.results))
    counts = {name: found.images for name, found in next(iter(gains.values())).items()}
    headings = [f"{name}\n{count} images" for name, count in counts.items()]
    shown = table([f"region mIoU, {measured.adaptation.sizes[-1]} segments\nby its value before"], headings)
    for title, by_value in gains.items():
        shown.add_row(title, *map(_cell, by_value.values()))
    shown.caption = "mean difference in points, and its standard error over images"
    console.print(shown)


def _cell(gain: Gain) -> str:
    """The gain in points; empty without images, and without an error for one image."""
    error = "" if isnan(gain.error) else f" ± {100 * gain.error:.1f}"
    return "" if isnan(gain.mean) else f"{100 * gain.mean:+.1f}{error}"
