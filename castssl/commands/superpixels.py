"""``castssl superpixels``: the installed superpixels beside each other, in numbers and in a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from castssl.commands.arguments import add_output, add_range, device_of, picture, save_picture, value_range
from castssl.errors import ConfigError, DataError, printable
from castssl.files import check_outputs

if TYPE_CHECKING:
    from PIL import Image
    from rich.table import Table
    from torch import Tensor

    from castssl.contracts import Superpixels
    from castssl.datasets.depth import Range
    from castssl.evaluation.superpixels import Trial

NOTES = """IMAGE is a file, a folder, "photographs" (four that castssl ships) or "demo" (generated, with
true parts).  Times are of one core, or of the GPU for what runs there (DEVICE).

  ms          for one image, the median of the rounds; the backends take turns
  asked, got  superpixels asked for, and labels in use, mean over the images
  variation   of color explained by the segments' means (more is better)
  recall      of true borders within 2 pixels (more is better; ragged borders help)
  reach       over true regions: undersegmentation error (less is better)
  accuracy    achievable if each segment goes to one region (more is better)
"""
SHOWN = 224
"""Pixels of a panel's side."""


class Sight(NamedTuple):
    """A picture as it is, with its true regions if they are known."""

    name: str
    image: Image.Image
    truth: Image.Image | None


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    purpose = "compare superpixels: speed, number, quality, a picture"
    command = commands.add_parser(
        "superpixels",
        help=purpose,
        description=purpose.capitalize() + ".",
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, photographs, or demo")
    command.add_argument(
        "--backends", nargs="+", metavar="SPEC", help="such as seeds:bins=5 (default: all installed)"
    )
    command.add_argument("--segments", type=int, metavar="N", help="superpixels to ask all backends for")
    command.add_argument("--image-size", type=int, default=224, metavar="PIXELS", help="(default: 224)")
    command.add_argument("--masks", type=Path, metavar="DIR", help="true regions: NAME.png for image NAME")
    command.add_argument(
        "--limit", type=int, default=8, metavar="N", help="images of a folder or the demo (default: 8)"
    )
    command.add_argument("--rounds", type=int, default=5, metavar="N", help="that are timed (default: 5)")
    add_output(command, "--out", type=picture, metavar="FILE.png", help="where the picture goes")
    command.add_argument("--device", help="such as cuda (default: cuda if there is one, else cpu)")
    add_range(command)
    command.set_defaults(run=_superpixels)


def _superpixels(given: argparse.Namespace) -> int:
    check_outputs([given.out] if given.out else [], overwrite=given.overwrite)
    device = device_of(given)
    for flag in ("segments", "image_size", "limit", "rounds"):
        value = getattr(given, flag)
        if value is not None and value < 1:
            raise ConfigError(f"--{flag.replace('_', '-')} must be at least 1, got {value}")
    from rich.console import Console

    from castssl import registry
    from castssl.doctor import machine
    from castssl.evaluation.superpixels import compare

    sights = [sight for source in given.images for sight in _open(source, given)]
    images, truth = _squares(sights, given.image_size)
    specs = given.backends or sorted({entry.name for entry in registry.names("superpixels")})
    backends = {spec: _builder(spec, given.segments, given.image_size) for spec in specs}
    trials = compare(backends, images, truth, rounds=given.rounds, device=device)
    table = _table(trials, f"{len(sights)} images of {given.image_size} x {given.image_size} pixels")
    table.caption = f"{machine(device)}; {given.rounds} rounds, on the CPU in one thread"
    console = Console()
    console.print(table)
    for trial in trials:
        if trial.fault:
            console.print(printable(f"{trial.name} is broken: {trial.fault}"), markup=False, highlight=False)
    if given.out:
        save_picture(_picture(trials, sights, images), given.out)
        print(f"picture: {given.out}")
    working = [trial for trial in trials if not trial.fault]
    return 0 if working and (len(working) == len(trials) or not given.backends) else 1


def _builder(spec: str, segments: int | None, side: int) -> Callable[[], Superpixels]:
    """What builds ``spec``, asked for so many segments if it has an option for that which is not given."""

    def build() -> Superpixels:
        import inspect

        from castssl import registry

        factory, wanted = registry.bind("superpixels", spec)
        known = inspect.signature(factory).parameters
        options: dict[str, int] = {}
        if segments is not None and "count" in known and "count" not in wanted.options:
            options["count"] = segments
        elif segments is not None and "cell" in known and "cell" not in wanted.options:
            options["cell"] = max(1, round(side / segments**0.5))
        return registry.build("superpixels", spec, **options)

    return build


def _open(source: str, given: argparse.Namespace) -> list[Sight]:
    """The pictures that one argument names."""
    from castssl.datasets.decode import EXTENSIONS
    from castssl.visualization.photographs import photographs

    if source == "photographs":
        return [Sight(name, image, None) for name, image in photographs()]
    if source == "demo":
        from castssl.datasets.demo import dataset as demo

        root = demo.root(size=given.image_size, per_class=40)
        return _folder(root / "val", root / "parts" / "val", given, (".png",))
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, given.masks, given, EXTENSIONS)
    return [_sight(path, _mask(given.masks, Path(path.name)), value_range(given))]


def _folder(
    folder: Path, masks: Path | None, given: argparse.Namespace, extensions: Sequence[str]
) -> list[Sight]:
    """At most ``limit`` images below a folder, spread evenly over them by name."""
    from castssl.datasets.folder import ignored

    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in extensions and not any(map(ignored, path.relative_to(folder).parts))
    )
    if not files:
        raise DataError(f"no images below {folder}: expected files named {', '.join(extensions)}")
    count = min(given.limit, len(files))
    chosen = [files[i * len(files) // count] for i in range(count)]
    return [_sight(path, _mask(masks, path.relative_to(folder)), value_range(given)) for path in chosen]


def _sight(path: Path, mask: Path | None, declared: Range | None) -> Sight:
    """An upright picture, and its true regions as they lie on it."""
    from castssl.datasets.decode import fitted, header, orientation, read, turned
    from castssl.datasets.unreadable import why

    at = path
    try:
        with path.open("rb") as file:
            decoded = read(header(file, declared), declared=declared)
        truth = None
        if mask is not None:
            at = mask
            with mask.open("rb") as file:
                opened = header(file)
                opened.load()
                upright = turned(opened, orientation(opened))
                truth = fitted(upright, decoded.image.size, decoded.orientation)
    except Exception as error:  # decoders raise almost anything on a broken file
        raise DataError(f"cannot read {at} as an image: {why(error)}") from error
    if decoded.remark:
        print(printable(f"castssl: {path}: {decoded.remark}"), file=sys.stderr)
    return Sight(path.stem, decoded.image, truth)


def _mask(masks: Path | None, name: Path) -> Path | None:
    """The true regions of image ``name``: below ``masks`` in the same sub-folders, or right in it."""
    if masks is None:
        return None
    places = (masks / name).with_suffix(".png"), masks / f"{name.stem}.png"
    return next((place for place in places if place.is_file()), None)


def _squares(sights: Sequence[Sight], size: int) -> tuple[Tensor, list[Tensor | None]]:
    """uint8 (B, 3, size, size), and int (size, size) regions or None; cut as evaluation cuts."""
    import numpy as np
    import torch
    from PIL import Image

    from castssl.data.views import CenterView

    center, exact = CenterView(size), CenterView(size, interpolation="nearest")
    truth: list[Tensor | None] = []
    for name, _, mask in sights:
        if mask is None:
            truth.append(None)
            continue
        values = np.asarray(mask).reshape(mask.height, mask.width, -1)
        kinds, regions = np.unique(values.reshape(-1, values.shape[2]), axis=0, return_inverse=True)
        if len(kinds) > 256:
            raise DataError(f"the mask of {name} has {len(kinds)} values, expected at most 256 regions")
        flat = Image.fromarray(regions.reshape(values.shape[:2]).astype(np.uint8))
        truth.append(exact(flat.convert("RGB"))[0][0].int())
    return torch.stack([center(sight.image)[0] for sight in sights]), truth


def _table(trials: Sequence[Trial], title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from castssl.output import safe_markup

    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("superpixels", overflow="fold", min_width=13)
    for column in ("ms", "asked", "got", "variation", "recall", "reach", "accuracy"):
        table.add_column(column, justify="right", no_wrap=True)
    for trial in trials:
        if trial.scores is None:
            table.add_row(safe_markup(trial.name), "[red]broken[/]")
            continue
        scores = trial.scores
        counts = "-" if scores.asked is None else str(scores.asked), f"{scores.got:.1f}"
        shares = (scores.variation, scores.recall, scores.undersegmentation, scores.accuracy)
        cells = ("-" if share is None else f"{share:.3f}" for share in shares)
        table.add_row(safe_markup(trial.name), f"{scores.milliseconds:.1f}", *counts, *cells)
    return table


def _picture(trials: Sequence[Trial], sights: Sequence[Sight], images: Tensor) -> Image.Image:
    """One row per image, one panel per backend."""
    from PIL import Image

    from castssl.visualization.draw import captioned, partition, sheet, to_pil

    rows = []
    for i, (sight, image) in enumerate(zip(sights, images, strict=True)):
        panels = [to_pil(image).resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)]
        captions = [sight.name]
        for trial in trials:
            if trial.labels is None:
                panels.append(Image.new("RGB", (SHOWN, SHOWN), (230, 230, 230)))
                captions.append(f"{trial.name}: broken")
            else:
                panels.append(partition(image, trial.labels[i], panel=SHOWN))
                captions.append(f"{trial.name}, {len(set(trial.labels[i].flatten().tolist()))}")
        rows.append(captioned(panels, captions))
    return sheet(rows)
