"""``castssl superpixels``: the installed superpixels compared, in numbers and in a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from castssl.commands.arguments import (
    Commands,
    add_output,
    add_reading,
    device_of,
    picture,
    save_picture,
    subcommand,
    table,
    value_range,
)
from castssl.errors import ConfigError, DataError, printable
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from PIL import Image
    from rich.table import Table
    from torch import Tensor

    from castssl.contracts import Superpixels
    from castssl.datasets.depth import Range
    from castssl.evaluation.superpixels import Trial

NOTES = """IMAGE is a file, a folder, "photographs" (four that castssl ships) or "demo" (generated, with
true parts).  Times are for one core, or for the GPU where a backend runs on it (DEVICE).

  ms          for one image, the median of the rounds; the backends take turns
  count       superpixels requested, by --segments or an option
  used        labels that occur, mean over the images
  EV          explained variation: of color, by the segments' means (more is better)
  apart       pixels outside of the largest connected part of their segment (less is better)
  recall      of true borders within 2 pixels (more is better; ragged borders help)
  UE          undersegmentation error: how far segments reach over true regions (less is better)
  ASA         achievable segmentation accuracy, if each segment goes to one region (more is better)

Where true regions are known, a second table has the region mIoU of the superpixels merged without
learning: what a model's segments must exceed.

  color, color+place     Ward's clustering of mean colors; of mean colors and positions
  neighbors, random      Ward's clustering where segments touch; neighbors merged at random
"""
SHOWN = 224
"""Pixels of a panel's side."""


class Photo(NamedTuple):
    """An image at its own size, with its true regions if they are known."""

    name: str
    image: Image.Image
    truth: Image.Image | None


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "compare superpixels: speed, number, quality, a picture"
    command = subcommand(commands, "superpixels", purpose, _superpixels, NOTES)
    command.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, photographs, or demo")
    backends = "such as seeds:bins=5 (default: all installed)"
    command.add_argument("--backends", nargs="+", metavar="SPEC", help=backends)
    command.add_argument("--segments", type=int, metavar="N", help="superpixels to request of all backends")
    command.add_argument("--image-size", type=int, default=224, metavar="PIXELS", help="(default: 224)")
    command.add_argument("--masks", type=Path, metavar="DIR", help="true regions: NAME.png for image NAME")
    limit = "images of a folder or the demo (default: 8)"
    command.add_argument("--limit", type=int, default=8, metavar="N", help=limit)
    command.add_argument("--rounds", type=int, default=5, metavar="N", help="timed rounds (default: 5)")
    add_output(command, "--out", type=picture, metavar="FILE.png", help="the file of the picture")
    add_reading(command)


def _superpixels(args: argparse.Namespace) -> int:
    check_outputs([args.out] if args.out else [], overwrite=args.overwrite)
    device = device_of(args)
    for flag in ("segments", "image_size", "limit", "rounds"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise ConfigError(f"--{flag.replace('_', '-')} must be at least 1, got {value}")
    if args.masks is not None and not args.masks.is_dir():
        raise ConfigError(f"--masks {args.masks}: there is no such folder; it holds NAME.png for image NAME")
    from rich.console import Console

    from castssl import registry
    from castssl.devices import machine
    from castssl.evaluation.superpixels import compare

    photos = [photo for source in args.images for photo in _open(source, args)]
    images, truth = _squares(photos, args.image_size)
    specs = args.backends or sorted({entry.name for entry in registry.names("superpixels")})
    backends = {spec: partial(_build, spec, args.segments, args.image_size) for spec in specs}
    trials = compare(backends, images, truth, rounds=args.rounds, device=device)
    shown = _table(trials, f"{len(photos)} images of {args.image_size} x {args.image_size} pixels")
    shown.caption = f"{machine(device)}; {args.rounds} rounds, on the CPU in one thread"
    console = Console()
    console.print(shown)
    if any(true is not None for true in truth):
        console.print(_merged(trials, images, truth))
    for trial in trials:
        if trial.fault:
            console.print(printable(f"{trial.name} is broken: {trial.fault}"), markup=False, highlight=False)
    if args.out:
        save_picture(_picture(trials, photos, images), args.out)
        print(f"picture: {args.out}")
    working = [trial for trial in trials if not trial.fault]
    return 0 if working and (len(working) == len(trials) or not args.backends) else 1


def _build(spec: str, segments: int | None, side: int) -> Superpixels:
    """The superpixels of ``spec``, so many of them if it has an option for that which is not set."""
    import inspect

    from castssl import registry

    factory, bound = registry.bind("superpixels", spec)
    free = inspect.signature(factory).parameters.keys() - bound.options.keys()
    options: dict[str, int] = {}
    if segments is not None and "count" in free:
        options["count"] = segments
    elif segments is not None and "cell" in free:
        options["cell"] = max(1, round(side / segments**0.5))
    return registry.build("superpixels", spec, **options)


def _open(source: str, args: argparse.Namespace) -> list[Photo]:
    """The images that one argument names."""
    from castssl.datasets.decode import EXTENSIONS
    from castssl.visualization.photographs import photographs

    if source == "photographs":
        return [Photo(name, image, None) for name, image in photographs()]
    if source == "demo":
        from castssl.datasets.demo import dataset as demo

        root = demo.root(size=args.image_size, per_class=40)
        return _folder(root / "val", root / "parts" / "val", args, (".png",))
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, args.masks, args, EXTENSIONS)
    return [_photo(path, _mask(args.masks, Path(path.name)), value_range(args))]


def _folder(
    folder: Path, masks: Path | None, args: argparse.Namespace, extensions: Sequence[str]
) -> list[Photo]:
    """At most ``limit`` images below a folder, spread evenly over them by name."""
    from castssl.datasets.file_names import ignored

    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in extensions and not any(map(ignored, path.relative_to(folder).parts))
    )
    if not files:
        raise DataError(f"no images below {folder}: expected files named {', '.join(extensions)}")
    count = min(args.limit, len(files))
    chosen = [files[i * len(files) // count] for i in range(count)]
    return [_photo(path, _mask(masks, path.relative_to(folder)), value_range(args)) for path in chosen]


def _photo(path: Path, mask: Path | None, declared: Range | None) -> Photo:
    """An upright image, and its true regions as they lie on it."""
    from castssl.datasets.decode import header, read
    from castssl.datasets.orientation import fitted, orientation, turned
    from castssl.datasets.regular import open_regular
    from castssl.datasets.unreadable import why
    from castssl.system_errors import explain

    current, truth = path, None
    try:
        with open_regular(path) as file:
            decoded = read(header(file, declared), declared=declared)
        if mask is not None:
            current = mask
            with open_regular(mask) as file:
                opened = header(file)
                opened.load()
                upright = turned(opened, orientation(opened))
                truth = fitted(upright, decoded.image.size, decoded.orientation)
    except Exception as error:  # decoders raise almost anything on a broken file
        if explain(error):
            raise  # The fault is not the image's.
        raise DataError(f"cannot read {current} as an image: {why(error)}") from error
    if decoded.remark:
        print(printable(f"castssl: {path}: {decoded.remark}"), file=sys.stderr)
    return Photo(path.stem, decoded.image, truth)


def _mask(masks: Path | None, name: Path) -> Path | None:
    """The true regions of image ``name``: below ``masks`` in the same sub-folders, or right in it."""
    if masks is None:
        return None
    paths = (masks / name).with_suffix(".png"), masks / f"{name.stem}.png"
    return next((path for path in paths if path.is_file()), None)


def _squares(photos: Sequence[Photo], size: int) -> tuple[Tensor, list[Tensor | None]]:
    """Center views uint8 (B, 3, size, size), and their regions, int (size, size), or None."""
    import numpy as np
    import torch
    from PIL import Image

    from castssl.data.evaluation_views import CenterView

    view = CenterView(size)
    truth: list[Tensor | None] = []
    for name, _, mask in photos:
        if mask is None:
            truth.append(None)
            continue
        values = np.asarray(mask).reshape(mask.height * mask.width, -1)
        kinds, regions = np.unique(values, axis=0, return_inverse=True)
        if len(kinds) > 256:
            raise DataError(f"the mask of {name} has {len(kinds)} values, expected at most 256 regions")
        flat = Image.fromarray(regions.reshape(mask.height, mask.width).astype(np.uint8))
        truth.append(view.crop_mask(flat).int())
    return torch.stack([view(photo.image)[0] for photo in photos]), truth


def _table(trials: Sequence[Trial], title: str) -> Table:
    from castssl.terminal import safe_markup

    numbers = ("ms", "count", "used", "EV", "apart", "recall", "UE", "ASA")
    shown = table(["superpixels"], numbers, title=title)
    for trial in trials:
        if trial.scores is None:
            shown.add_row(safe_markup(trial.name), "[red]broken[/]")
            continue
        scores = trial.scores
        counts = "-" if scores.requested is None else str(scores.requested), f"{scores.used:.1f}"
        shares = (
            *(scores.variation, scores.apart),
            *(scores.recall, scores.undersegmentation, scores.accuracy),
        )
        cells = ("-" if share is None else f"{share:.3f}" for share in shares)
        shown.add_row(safe_markup(trial.name), f"{scores.milliseconds:.1f}", *counts, *cells)
    return shown


def _merged(trials: Sequence[Trial], images: Tensor, truth: Sequence[Tensor | None]) -> Table:
    """A row for each backend and way of merging, a column for each number of segments."""
    from castssl.evaluation.superpixels import MERGED, merged
    from castssl.terminal import safe_markup

    title = "Superpixels merged without learning: region mIoU in %"
    shown = table(["superpixels", "merged by"], [f"{size} segments" for size in MERGED], title=title)
    for trial in trials:
        for kind, shares in merged(trial.labels, images, truth).items() if trial.labels is not None else ():
            shown.add_row(safe_markup(trial.name), kind, *(f"{100 * share:.1f}" for share in shares))
    return shown


def _picture(trials: Sequence[Trial], photos: Sequence[Photo], images: Tensor) -> Image.Image:
    """One row per image, one panel per backend."""
    from PIL import Image

    from castssl.visualization.draw import captioned, partition, sheet, to_pil

    rows = []
    for i, (photo, image) in enumerate(zip(photos, images, strict=True)):
        panels = [to_pil(image).resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)]
        captions = [photo.name]
        for trial in trials:
            if trial.labels is None:
                panels.append(Image.new("RGB", (SHOWN, SHOWN), (230, 230, 230)))
                captions.append(f"{trial.name}: broken")
            else:
                panels.append(partition(image, trial.labels[i], panel=SHOWN))
                captions.append(f"{trial.name}, {len(set(trial.labels[i].flatten().tolist()))}")
        rows.append(captioned(panels, captions))
    return sheet(rows)
