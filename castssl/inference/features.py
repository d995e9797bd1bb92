"""Features of images and of their segments, of the center view that the recipes evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from castssl.contracts import Encoder
from castssl.data.evaluation_views import CenterView
from castssl.data.to_view import view_of
from castssl.errors import ConfigError
from castssl.evaluation.features import segment_with_feature
from castssl.inference.photos import Photo, read_photo
from castssl.modes import evaluating, kept_random_state
from castssl.registry import build_superpixels
from castssl.types import View

BATCH = 64
"""How many images an encoder sees at once."""


class Features(NamedTuple):
    """Features of n images, on the CPU."""

    image: Tensor
    """float32 (n, D), the class token of the last stage that has one: what kNN and a linear probe read."""
    segments: tuple[Tensor, ...]
    """float32 (n, K, D) of each stage, fine to coarse: one row for each segment."""
    mass: tuple[Tensor, ...]
    """float32 (n, K) of each stage: how many cells of the stem the segment has; 0 is a row without pixels."""


def read_features(encoder: Encoder, view: View) -> Features:
    """The features of a batch that the encoder reads as it stands, without a gradient."""
    with evaluating(encoder), torch.no_grad():
        hierarchy, feature = segment_with_feature(encoder, view)
    stages = hierarchy.stages
    return Features(
        feature.float().cpu(),
        tuple(tokens.x.float().cpu() for tokens in stages),
        tuple(tokens.mass.float().cpu() for tokens in stages),
    )


@kept_random_state()
def features(
    images: Sequence[Photo],
    encoder: Encoder,
    *,
    image_size: int | None = None,
    interpolation: str = "bilinear",
    superpixels: str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Features:
    """The features of images, each of its center view as the recipes evaluate it.

    Args:
        images: what :func:`castssl.segment` takes as single images.
        encoder: where it is, there it runs.
        image_size: side of the view in pixels; by default that of the training.
        interpolation: of the view: "bilinear", or "bicubic" as DeiT and H-CAST have it.
        superpixels: another backend than the encoder was trained with.
        value_range: as for :func:`castssl.segment`.

    Raises:
        ConfigError: if there are no images.
        DataError: if an image cannot be read.
        ContractError: if the superpixels are more than the encoder has room for.
    """
    if not images:
        raise ConfigError("got no images, expected one or more")
    config, device = encoder.config, next(encoder.parameters()).device
    backend = build_superpixels(config, superpixels)
    center = CenterView(image_size or config.image_size, interpolation=interpolation)
    parts = []
    for start in range(0, len(images), BATCH):
        photos = [read_photo(i, value_range, config.channels) for i in images[start : start + BATCH]]
        shown = torch.stack([center(photo)[0] for photo in photos])
        with kept_random_state(device):
            parts.append(read_features(encoder, view_of(shown, backend, device)))
    image, stages, masses = zip(*parts, strict=True)
    segments_of, mass_of = (tuple(map(torch.cat, zip(*each, strict=True))) for each in (stages, masses))
    return Features(torch.cat(image), segments_of, mass_of)
