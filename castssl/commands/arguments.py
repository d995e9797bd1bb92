"""Arguments that several subcommands share: models, outputs, devices, and images of more than 8 bits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from castssl.errors import ConfigError
from castssl.files import atomic_write

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

    from castssl.contracts import Encoder
    from castssl.datasets.depth import Range

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
MODEL = (
    "cast_small, nano, timm:NAME, ..., or trained weights: a run's folder, encoder.safetensors, checkpoint,"
    " hf:USER/NAME"
)


def add_output(command: argparse.ArgumentParser, *flags: str, **options: Any) -> None:
    """Add an argument that names what is written, and ``--overwrite``, which means the same everywhere.

    The command passes all paths that it will write to :func:`castssl.files.check_outputs` before the first
    write.

    Args:
        command: the parser of a subcommand or a study.
        flags: as those of ``add_argument``.
        options: likewise.
    """
    command.add_argument(*flags, **options)
    command.add_argument("--overwrite", action="store_true", help="replace files that are there")


def picture(text: str) -> Path:
    """The path of a picture that can be written, known before anything is computed for it.

    Raises:
        argparse.ArgumentTypeError: if its ending names no picture format, or it is a folder.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() not in ENDINGS or path.is_dir():
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a file that ends in {', '.join(ENDINGS)}, such as picture.png"
        )
    return path


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture in the format of its ending, by :func:`castssl.files.atomic_write`."""
    kind = "jpeg" if path.suffix.lower() == ".jpg" else path.suffix[1:].lower()
    with atomic_write(path, "picture") as aside:
        image.save(aside, format=kind)


def add_range(command: argparse.ArgumentParser) -> None:
    """Add ``--range`` and ``--bits``, which exclude each other."""
    values = command.add_mutually_exclusive_group()
    note = "of pictures with more than 8 bits, where their files do not say"
    values.add_argument("--range", metavar="LOW:HIGH", help=f"values of black and white {note}: 0:1, 0:255")
    values.add_argument("--bits", metavar="N", help=f"bits {note}, such as 12")


def value_range(given: argparse.Namespace) -> Range | None:
    """What :func:`add_range` added, understood.

    Raises:
        DataError: if it is no range or no number of bits.
    """
    from castssl.datasets.depth import parse_range, range_of_bits

    if given.range is not None:
        return parse_range(given.range)
    return None if given.bits is None else range_of_bits(given.bits)


class Model(NamedTuple):
    """An encoder, how it is used, and its classifiers."""

    encoder: Encoder
    superpixels: str
    """Spec of the backend."""
    image_size: int
    """Side in pixels."""
    heads: list[nn.Linear]
    """Classifiers, fine to coarse; empty where the weights have none."""


def add_shape(command: argparse.ArgumentParser) -> None:
    """The flags that :func:`open_model` reads, except ``--sizes``."""
    command.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="side (default: trained with, or 224)"
    )
    command.add_argument("--superpixels", metavar="SPEC", help="such as seeds (default: the model's own)")
    command.add_argument("--segments", type=int, metavar="N", help="superpixels of an image, such as 324")


def open_model(model: str, given: argparse.Namespace, sizes: Sequence[int] | None, **options: str) -> Model:
    """The encoder with its superpixels and image size, at the sizes that are asked for.

    Args:
        model: see :data:`MODEL`.
        given: with ``image_size``, ``superpixels`` and ``segments``.
        sizes: tokens per stage; by default the model's own, the first with room for the superpixels.
        options: of :func:`castssl.models.create.create`, for a model's name.

    Raises:
        ConfigError: if there is neither such a model nor such a file, or the sizes do not fit.
    """
    from castssl.models.sizes import sizes_for, with_sizes

    encoder, heads = _open(model, given.image_size, options)
    side = given.image_size or encoder.config.image_size
    spec = given.superpixels or encoder.config.superpixels
    if given.segments is not None:
        spec = with_count(spec, given.segments)
    if given.segments is not None or given.superpixels is not None:
        from castssl.registry import build

        sizes = sizes_for(encoder, build("superpixels", spec).capacity(side, side), sizes)
    if sizes is not None:
        encoder = with_sizes(encoder, sizes)
    return Model(encoder, spec, side, heads)


def device_of(given: argparse.Namespace) -> str:
    """``--device``, or cuda if there is one, else cpu.

    Raises:
        ConfigError: if there is no such device here.
    """
    import torch

    from castssl.doctor import check_device

    if given.device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return check_device(given.device)


def with_count(spec: str, segments: int) -> str:
    """A backend's spec with that many superpixels, whatever it said before."""
    from castssl.options import parse

    name, options = parse(spec)
    return f"{name}:{','.join(f'{key}={value}' for key, value in {**options, 'count': segments}.items())}"


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
