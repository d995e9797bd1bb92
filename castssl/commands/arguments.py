"""What subcommands share: their parsers, arguments for models, outputs and images, and tables."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from castssl.ablations.grid import add_commands, from_one
from castssl.errors import ConfigError, DataError, printable
from castssl.files import atomic_write

if TYPE_CHECKING:
    from PIL import Image
    from rich.table import Table
    from torch import nn

    from castssl.contracts import Encoder
    from castssl.datasets.depth import Range
    from castssl.datasets.images import Images
    from castssl.labels import LabelTree

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
T = TypeVar("T")
LISTED = 10
"""Images without a score whose reasons are printed."""
EVERY = 10.0
"""Seconds between two lines about progress."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
LARGEST = {"jpeg": 65500, "webp": 16383}
"""Pixels of the longer side that a format can hold, where pictures reach it."""
MODEL = (
    "cast_small, cast_nano, timm:NAME, ..., or trained weights: a run's folder, encoder.safetensors,"
    " checkpoint, hf:USER/NAME"
)
SIZES = "tokens per stage, fine to coarse; a last stage without blocks, if left out, gets half of the last"


def subcommand(
    commands: Commands,
    name: str,
    purpose: str,
    run: Callable[[argparse.Namespace], int],
    notes: str = "",
    **options: Any,
) -> argparse.ArgumentParser:
    """Add a subcommand to the command line.

    Args:
        commands: the subcommands of ``castssl``.
        name: as typed.
        purpose: one line for the list of commands.
        run: takes the parsed arguments, and returns the exit code.
        notes: printed as they are at the end of the help.
        options: further ones of :class:`argparse.ArgumentParser`.
    """
    command = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=notes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )
    command.set_defaults(run=run)
    return command


def add_output(command: argparse.ArgumentParser, *flags: str, **options: Any) -> None:
    """Add an argument that names what is written, and ``--overwrite``, which means the same everywhere.

    The command passes all paths that it will write to :func:`castssl.outputs.check_outputs` before the first
    write.

    Args:
        command: the parser of a subcommand or a study.
        flags: as those of ``add_argument``.
        options: likewise.
    """
    command.add_argument(*flags, **options)
    command.add_argument("--overwrite", action="store_true", help="replace existing files")


def picture(text: str) -> Path:
    """The path of an image file that can be written.

    Raises:
        argparse.ArgumentTypeError: if its ending names no image format, or it is a folder.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() not in ENDINGS or path.is_dir():
        expected = f"a file that ends in {', '.join(ENDINGS)}, such as picture.png"
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
    return path


def save_picture(image: Image.Image, path: Path) -> None:
    """Write an image in the format of its ending, by :func:`castssl.files.atomic_write`.

    Raises:
        ConfigError: if the format has no room for the image.
    """
    kind = "jpeg" if path.suffix.lower() == ".jpg" else path.suffix[1:].lower()
    if max(image.size) > LARGEST.get(kind, sys.maxsize):
        raise ConfigError(
            f"{path}: the picture has {image.width} x {image.height} pixels, and a {kind} file at most"
            f" {LARGEST[kind]} a side; give fewer images, or take a file that ends in .png"
        )
    with atomic_write(path, "picture") as aside:
        image.save(aside, format=kind)


def add_reading(command: argparse.ArgumentParser) -> None:
    """Add ``--device``, and ``--range`` and ``--bits``, which exclude each other."""
    command.add_argument("--device", help="such as cuda (default: cuda if there is one, else cpu)")
    values = command.add_mutually_exclusive_group()
    note = "of images with more than 8 bits, which weights do not remember (default: of the file)"
    values.add_argument("--range", metavar="LOW:HIGH", help=f"values of black and white {note}: 0:1, 0:255")
    values.add_argument("--bits", metavar="N", help=f"bits {note}, such as 12")


def add_batches(command: argparse.ArgumentParser) -> None:
    """Add ``--batch-size`` and ``--workers``, for images that are read in batches."""
    size = "images per batch (default: 64)"
    command.add_argument("--batch-size", type=from_one, default=64, metavar="N", help=size)
    workers = "processes that read images and compute superpixels; 0 = none (default: one per core)"
    command.add_argument("--workers", type=from_zero, metavar="N", help=workers)


def from_zero(text: str) -> int:
    """The whole number from 0 that an argument is.

    Raises:
        ArgumentTypeError: if it is none.
    """
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"got {text}, expected a whole number from 0")
    return int(text)


def add_tree(command: argparse.ArgumentParser) -> None:
    """Add ``--tree``, the data that a classifier was trained on, and ``--allow-commands``."""
    command.add_argument("--tree", metavar="DATA", help="names and parents of the classes, such as cub:/path")
    add_commands(command)


def label_tree(args: argparse.Namespace) -> LabelTree | None:
    """The label tree of ``--tree``.

    Raises:
        DataError: if there is no such data.
    """
    if args.tree is None:
        return None
    from castssl.datasets.open import open_images

    return open_images(args.tree, commands=args.allow_commands).tree


def value_range(args: argparse.Namespace) -> Range | None:
    """The range of ``--range`` or ``--bits``.

    Raises:
        DataError: if it is neither a range nor a number of bits.
    """
    from castssl.datasets.depth import parse_range, range_of_bits

    if args.range is not None:
        return parse_range(args.range)
    return None if args.bits is None else range_of_bits(args.bits)


def open_indexed(args: argparse.Namespace, channels: int) -> Images:
    """The images of ``DATA`` or ``--data`` and ``--split``, by index: held-out ones if there are any.

    Raises:
        ConfigError: if they are a stream.
        DataError: if they cannot be opened.
    """
    from dataclasses import replace

    from castssl.datasets.images import Images
    from castssl.inference.evaluate import open_labeled

    spec = f"folder:{args.data}" if Path(args.data).expanduser().is_dir() else args.data
    images = open_labeled(spec, split=args.split, commands=args.allow_commands, channels=channels)
    if not isinstance(images, Images):
        raise ConfigError(f"{args.data} is a stream, whose images have no index; give a folder or tar:")
    declared = value_range(args)
    return replace(images, declared=declared) if declared else images


def device_of(args: argparse.Namespace) -> str:
    """``--device``, or cuda if there is one, else cpu.

    Raises:
        ConfigError: if there is no such device here.
    """
    import torch

    from castssl.devices import check_device

    if args.device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return check_device(args.device)


def or_none(work: Callable[[], T]) -> T | None:
    """The result for one image; None with the error on stderr if it cannot be read, so that others are."""
    try:
        return work()
    except DataError as error:
        print(f"castssl: {error}", file=sys.stderr)
        return None


def list_unscored(spec: str, reasons: Mapping[str, str], total: int) -> None:
    """Print on stderr how many images have no score, and the first ones with the reasons.

    Args:
        spec: of the segmenter.
        reasons: by the name of the image.
        total: how many images there are.
    """
    if not reasons:
        return
    print(f"{spec}: {len(reasons)} of {total} images could not be scored", file=sys.stderr)
    for name, reason in islice(reasons.items(), LISTED):
        print(f"  {printable(name)}: {printable(reason)}", file=sys.stderr)
    if len(reasons) > LISTED:
        print(f"  and {len(reasons) - LISTED} more; --out FILE lists all", file=sys.stderr)


def short_names(paths: Iterable[Path]) -> dict[Path, str]:
    """The name of each file, or all of its path where another one has the same name."""
    listed = list(paths)
    times = Counter(path.name for path in listed)
    return {path: path.name if times[path.name] == 1 else str(path) for path in listed}


def names_below(paths: Sequence[Path]) -> dict[Path, str]:
    """The path of each image below the deepest folder that holds all of them, such as ``cat/1.jpg``."""
    whole = {path: Path(os.path.abspath(path)) for path in paths}
    folders = zip(*(path.parent.parts for path in whole.values()), strict=False)
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, folders))
    return {path: "/".join(below.parts[shared:]) for path, below in whole.items()}


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show on stderr how many of ``total`` are done, the rate and the time left: a bar, or lines for a file.

    Yields:
        A function that takes the number that is done; the first call tells what was done before.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console, began, last, before = Console(stderr=True), time.monotonic(), 0.0, -1
    columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console, expand=True, disable=not console.is_terminal)
    task = bar.add_task("", total=total)

    def report(done: int) -> None:
        nonlocal began, last, before
        now = time.monotonic()
        if before < 0:
            began, before = now, done
        rate = (done - before) / (now - began) if now > began else 0.0
        left = timedelta(seconds=round((total - done) / rate)) if rate else "?"
        text = f"{what}  {rate:.1f}/s  {left} left"
        bar.update(task, completed=done, description=text)
        if not console.is_terminal and (now - last >= EVERY or done == total):
            last = now
            print(f"{done} of {total} {text}", file=sys.stderr)

    with bar:
        yield report


def table(text: Sequence[str], numbers: Sequence[str], **options: Any) -> Table:
    """A table with columns of text, then of numbers.

    Args:
        text: headings of columns that may wrap.
        numbers: headings of columns that align right.
        options: of :class:`rich.table.Table`.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, **options)
    for heading in text:
        shown.add_column(heading, overflow="fold", min_width=min(13, len(heading) + 2))
    for heading in numbers:
        shown.add_column(heading, justify="right", no_wrap=True)
    return shown


class Model(NamedTuple):
    """An encoder, how it is used, and its classifiers."""

    encoder: Encoder
    superpixels: str
    """Spec of the backend."""
    image_size: int
    """Side in pixels."""
    heads: list[nn.Linear]
    """Classifiers, fine to coarse; empty where the weights have none."""


def add_shape(command: argparse.ArgumentParser, side: str = "side (default: trained with, or 224)") -> None:
    """The flags of a model's shape, except ``--sizes``."""
    command.add_argument("--image-size", type=int, metavar="PIXELS", help=side)
    command.add_argument("--superpixels", metavar="SPEC", help="such as seeds (default: trained with)")
    command.add_argument("--segments", type=int, metavar="N", help="superpixels of an image, such as 324")


def open_model(model: str, args: argparse.Namespace, sizes: Sequence[int] | None, **options: str) -> Model:
    """The encoder with its superpixels and image size, at the requested sizes.

    Args:
        model: see :data:`MODEL`.
        args: with ``image_size``, ``superpixels`` and ``segments``.
        sizes: tokens per stage; by default the model's own, the first with room for the superpixels.
        options: of :func:`castssl.models.create.create`, for a model's name.

    Raises:
        ConfigError: if there is neither such a model nor such a file, or the sizes do not fit.
    """
    encoder, heads = _open(model, args.image_size, options)
    return shape_model(encoder, heads, args, sizes)


def shape_model(
    encoder: Encoder, heads: list[nn.Linear], args: argparse.Namespace, sizes: Sequence[int] | None
) -> Model:
    """An encoder and classifiers with the shape that :func:`open_model` gives them.

    Raises:
        ConfigError: if the sizes do not fit.
    """
    from castssl.models.sizes import sizes_for, with_sizes
    from castssl.registry import build

    side = args.image_size or encoder.config.image_size
    spec = superpixels_of(args, encoder)
    if args.segments is not None or args.superpixels is not None:
        sizes = sizes_for(encoder, build("superpixels", spec).capacity(side, side), sizes)
    return Model(encoder if sizes is None else with_sizes(encoder, sizes), spec, side, heads)


def superpixels_of(args: argparse.Namespace, encoder: Encoder) -> str:
    """The spec of ``--superpixels``, or the encoder's own, with as many superpixels as ``--segments``."""
    from castssl.registry import parse

    spec: str = args.superpixels or encoder.config.superpixels
    if args.segments is None:
        return spec
    name, options = parse(spec)
    words = (f"{key}={value}" for key, value in {**options, "count": args.segments}.items())
    return f"{name}:{','.join(words)}"


def _open(model: str, image_size: int | None, options: dict[str, str]) -> tuple[Encoder, list[nn.Linear]]:
    from castssl.checkpoints import read
    from castssl.checkpoints.official_model import classifiers
    from castssl.models.create import create

    if model.startswith("hf:") or Path(model).expanduser().exists():
        checkpoint = read(model)
        return checkpoint.build(), classifiers(checkpoint)
    try:
        return create(model, image_size=image_size, advance=False, **options), []
    except ConfigError as error:
        if not str(error).startswith("no model"):
            raise
        raise ConfigError(f"{error}\nnor is there a file or folder {model!r}") from None
