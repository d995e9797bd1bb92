"""The hierarchy of an encoder on a few images, as one image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from castssl.contracts import Encoder, Superpixels
from castssl.data.normalize import to_views
from castssl.data.views import CenterView
from castssl.modes import evaluating
from castssl.superpixel_labels import partition
from castssl.types import Batch, RawView
from castssl.visualization.draw import draw_hierarchy, sheet


def gallery(
    encoder: Encoder,
    superpixels: Superpixels,
    images: Sequence[Image.Image],
    image_size: int,
    device: torch.device | str,
    *,
    title: str = "",
) -> Image.Image:
    """A row an image: the image, its superpixels, and each stage from fine to coarse.

    The encoder's mode is as before afterwards; its ``segment`` is asked if it has one.
    """
    pixels = torch.stack([CenterView(image_size)(image)[0] for image in images])
    worker = superpixels.runs_on == "worker"
    segments = partition(superpixels, pixels) if worker else torch.empty(len(pixels), 0, 0, dtype=torch.int32)
    raw = Batch([RawView(pixels, segments)], torch.empty(len(pixels), 0, dtype=torch.int64))
    with evaluating(encoder), torch.no_grad():
        hierarchy = encoder.segment(to_views(raw, superpixels, device).views[0])
    return sheet([draw_hierarchy(image, hierarchy, i) for i, image in enumerate(pixels)], title)
