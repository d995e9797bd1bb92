"""The hierarchy of an encoder on a few images, as one image; also beside that of other segmentations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from castssl.contracts import Encoder, Superpixels
from castssl.data.evaluation_views import CenterView
from castssl.data.to_view import view_of
from castssl.datasets.images import Images
from castssl.datasets.multichannel import RGB
from castssl.datasets.stream import Stream
from castssl.modes import evaluating
from castssl.superpixel_labels import three_channels
from castssl.superpixels.merge import merge
from castssl.types import Hierarchy, View
from castssl.visualization.colors import paint
from castssl.visualization.draw import captioned, draw_hierarchy, draw_image, overlay, sheet
from castssl.visualization.draw import partition as draw_partition
from castssl.visualization.photographs import photographs

COMPARED = 192
"""Pixels of a panel's side where segmentations are compared: two levels of three of them are 1,600 wide."""


def gallery(
    encoder: Encoder,
    superpixels: Superpixels,
    images: Sequence[Image.Image],
    image_size: int,
    device: torch.device | str,
) -> Image.Image:
    """A row per image: the image, its superpixels, and each stage from fine to coarse.

    The encoder's mode is as before afterwards.
    """
    pixels, view = _center(superpixels, images, image_size, device)
    hierarchy = _hierarchy(encoder, view)
    return sheet([draw_hierarchy(image, hierarchy, i) for i, image in enumerate(pixels)])


class Comparison:
    """Images as an encoder segmented them when this was built and as it does now, beside color merging.

    Args:
        encoder: before it is trained.
        superpixels: that are merged.
        images: what is segmented.
        image_size: side of the center view in pixels.
        device: where the encoder is.
    """

    def __init__(
        self,
        encoder: Encoder,
        superpixels: Superpixels,
        images: Sequence[Image.Image],
        image_size: int,
        device: torch.device | str,
    ) -> None:
        self._encoder = encoder
        self._pixels, self._view = _center(superpixels, images, image_size, device)
        self._untrained = self._segments()

    def __call__(self) -> Image.Image:
        """A row per image: the image, its superpixels, and the segmentations with the two coarsest sizes."""
        trained, superpixels = self._segments(), self._view.segments.cpu()
        sizes, rows = list(trained), []
        for i, image in enumerate(self._pixels):
            maps = {"color": list(merge(image, superpixels[i], sizes))}
            maps |= {"untrained": [labels[i] for labels in self._untrained.values()]}
            maps |= {"trained": [labels[i] for labels in trained.values()]}
            colors = {name: paint(levels) if levels else [] for name, levels in maps.items()}
            panels = [draw_image(image, COMPARED), draw_partition(image, superpixels[i], panel=COMPARED)]
            captions = ["image", "superpixels"]
            for level, size in enumerate(sizes):
                for name, levels in maps.items():
                    panels.append(overlay(image, levels[level], colors[name][level], panel=COMPARED))
                    captions.append(f"{name}, {size} segments")
            rows.append(captioned(panels, captions))
        return sheet(rows)

    def _segments(self) -> dict[int, Tensor]:
        """Label maps int64 (B, H, W) by number of segments: the encoder's two coarsest, fine to coarse."""
        hierarchy = _hierarchy(self._encoder, self._view)
        sizes = [tokens.x.shape[1] for tokens in hierarchy.stages]
        stages = [stage for stage in range(1, len(sizes)) if sizes[stage] < sizes[stage - 1]]
        return {sizes[stage]: hierarchy.labels(stage).cpu() for stage in stages[-2:]}


def examples(held_out: Images | Stream | None) -> list[Image.Image]:
    """Images to look at: six held-out ones, if they are known by index, and, beside RGB, the photographs."""
    chosen = _spread(held_out) if isinstance(held_out, Images) else []
    if isinstance(held_out, Images) and held_out.channels not in RGB:
        return chosen
    return [*chosen, *(photo for _, photo in photographs())]


def shown(images: Images | Stream) -> list[Image.Image]:
    """What pictures of a run show: the photographs, or six of its own images of other than RGB."""
    if isinstance(images, Images) and images.channels not in RGB:
        return _spread(images)
    return [photo for _, photo in photographs()]


def _spread(images: Images) -> list[Image.Image]:
    """Six of the images."""
    count = min(6, len(images))
    return [images.fetch(i * len(images) // count).image for i in range(count)]


def _center(
    superpixels: Superpixels, images: Sequence[Image.Image], image_size: int, device: torch.device | str
) -> tuple[Tensor, View]:
    """The center views uint8 (B, 3, H, W), of three channels to look at, and as an encoder sees them."""
    pixels = torch.stack([CenterView(image_size)(image)[0] for image in images])
    return three_channels(pixels, superpixels.channels), view_of(pixels, superpixels, device)


def _hierarchy(encoder: Encoder, view: View) -> Hierarchy:
    with evaluating(encoder), torch.no_grad():
        return encoder.segment(view)
