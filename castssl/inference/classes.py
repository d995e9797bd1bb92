"""The class of each pixel of an image in one call: ``castssl.segment_classes(image, model)``."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from castssl.checkpoints.load import Source
from castssl.checkpoints.segmenter import Segmenter, load_segmenter
from castssl.data.dense_views import WholeView
from castssl.data.to_view import view_of
from castssl.datasets.multichannel import to_rgb_image
from castssl.datasets.pixel_classes import Color, voc_palette
from castssl.evaluation.windows import Windows, class_logits, classes_at
from castssl.inference.photos import Photo, read_photo
from castssl.modes import kept_random_state
from castssl.registry import build_superpixels

STRENGTH = 0.6
"""How much color hides the image in an overlay, 0 to 1."""


class ClassMap:
    """One image's class map at its own size.

    Attributes:
        image: the image in RGB, or three of its channels; upright.
        labels: int64 (H, W), the class of each pixel.
        names: of the classes, by number; () if they have none.
        palette: the RGB color of each class; PASCAL VOC's rule gives those of data without colors.
    """

    def __init__(
        self, image: Image.Image, labels: Tensor, names: tuple[str, ...], palette: tuple[Color, ...]
    ) -> None:
        self.image, self.labels, self.names, self.palette = image, labels, names, palette

    def indexed(self) -> Image.Image:
        """The class numbers as a PIL image with the palette (mode P); mode I;16 from 257 classes on."""
        if len(self.palette) > 256:
            return Image.fromarray(self.labels.numpy().astype(np.uint16))
        picture = Image.fromarray(self.labels.numpy().astype(np.uint8), mode="P")
        picture.putpalette([channel for color in self.palette for channel in color])
        return picture

    def overlay(self) -> Image.Image:
        """The image under the classes' colors, of its own size."""
        colors = np.asarray(self.palette, dtype=np.uint8)[self.labels.numpy()]
        return Image.blend(self.image, Image.fromarray(colors), STRENGTH)

    def shares(self) -> dict[str, float]:
        """The share of the pixels of each class that occurs, by name or number, largest first."""
        counts = torch.bincount(self.labels.flatten())
        shares = {str(i): float(counts[i]) / self.labels.numel() for i in counts.nonzero().flatten().tolist()}
        ordered = sorted(shares, key=lambda number: -shares[number])
        return {self.names[int(i)] if self.names else i: shares[i] for i in ordered}


@kept_random_state()
def segment_classes(
    image: Photo,
    model: Source | Segmenter,
    *,
    superpixels: str | None = None,
    image_size: int | None = None,
    windows: Windows | None = None,
    device: torch.device | str | None = None,
    value_range: tuple[float, float] | None = None,
) -> ClassMap:
    """The class of each pixel of one image of any size, as ``recipes/segment.py`` evaluates it.

    The image is resized so that its shorter side is ``image_size``, and the logits to its own size.  For a
    run of ``recipes/finetune_voc.py`` it is the longer side, and superpixels are those of the image as it is.

    Args:
        image: as for :func:`castssl.segment`.
        model: the folder or the weights of a run of ``recipes/segment.py``; or, for many images, what
            :func:`castssl.checkpoints.segmenter.load_segmenter` returns.
        superpixels: another backend than the model was trained with, such as ``seeds:count=324``.
        image_size: another side in pixels than that of the run.
        windows: show the model windows, with superpixels of each or, with ``once``, of the image; by default
            the whole image.
        device: where to run; by default where the encoder is.
        value_range: as for :func:`castssl.segment`.

    Raises:
        DataError: if the image or the weights cannot be read, or these have no head for segmentation.
    """
    segmenter = model if isinstance(model, Segmenter) else load_segmenter(model)
    network = segmenter.model
    config = network.encoder.config
    backend = build_superpixels(config, superpixels)
    photo = read_photo(image, value_range, config.channels)
    side = image_size or segmenter.longer or segmenter.shorter
    shown = WholeView(None if segmenter.longer else side).crop(photo)[0].image[None]
    if device is not None:
        network.to(device)
    place = next(iter(network.parameters())).device
    with kept_random_state(place):
        view = view_of(shown, backend, place)
        longer = side if segmenter.longer else None
        logits = class_logits(network, view, backend, windows, longer=longer)
    labels = classes_at(logits, (photo.height, photo.width))[0].cpu()
    names = segmenter.labels.names[0] if segmenter.labels.names else ()
    palette = segmenter.palette or voc_palette(network.classes)
    return ClassMap(to_rgb_image(photo, backend.channels), labels, names, palette)
