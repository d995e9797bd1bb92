"""Which encoder a subcommand works on: a model's name or trained weights, and its sizes at test time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from castssl.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from castssl.contracts import Encoder

MODEL = (
    "cast_small, nano, timm:NAME, ..., or trained weights: a run's folder, encoder.safetensors, checkpoint,"
    " hf:USER/NAME"
)


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
    from castssl.models.resized import resized, sizes_for

    encoder, heads = _open(model, given.image_size, options)
    side = given.image_size or encoder.config.image_size
    spec = given.superpixels or encoder.config.superpixels
    if given.segments is not None:
        spec = with_count(spec, given.segments)
    if given.segments is not None or given.superpixels is not None:
        from castssl.registry import build

        sizes = sizes_for(encoder, build("superpixels", spec).capacity(side, side), sizes)
    if sizes is not None:
        encoder = resized(encoder, sizes)
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


def _open(
    model: str, image_size: int | None, options: dict[str, str]
) -> tuple[Encoder, list[nn.Linear]]:
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
