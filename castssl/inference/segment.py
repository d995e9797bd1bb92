"""An image's hierarchy of segments in one call: ``castssl.segment(image, model)``.

CAST, https://arxiv.org/abs/2210.00314, section 3 and figure 5: the segmentation is what its poolings did.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from castssl.checkpoints.load import Source, load_encoder
from castssl.contracts import Encoder, Superpixels
from castssl.data.normalize import to_views
from castssl.data.views import to_uint8
from castssl.datasets.decode import header, read
from castssl.datasets.depth import Range
from castssl.datasets.unreadable import why
from castssl.errors import DataError, printable
from castssl.models.sizes import sizes_for
from castssl.modes import evaluating, kept_random_state
from castssl.registry import build
from castssl.superpixel_labels import partition
from castssl.types import Batch, Hierarchy, RawView

Photo = Image.Image | NDArray[np.uint8] | str | Path
_log = logging.getLogger(__name__)
SLIMMEST = 4
"""An image with a larger ratio of its sides is squeezed to this one before the encoder sees it."""


class Segmentation:
    """One image's hierarchy: at each stage, segments with a feature each, and the larger ones they are in.

    Stages count from 0, the superpixels, to ``len(...) - 1``, the coarsest; -1 is the coarsest, too.

    Attributes:
        image: the image in RGB, as it was given.
        seen: what the encoder saw of it, uint8 (3, h, w).
        hierarchy: what the encoder returned, a batch of one, on its device.
    """

    def __init__(self, image: Image.Image, seen: Tensor, hierarchy: Hierarchy) -> None:
        self.image, self.seen, self.hierarchy = image, seen, hierarchy

    def __len__(self) -> int:
        """How many stages there are."""
        return len(self.hierarchy.stages)

    def labels(self, stage: int) -> Tensor:
        """Which segment of ``stage`` each pixel of the image is in: int64 (H, W) at the image's own size.

        A label is a row of :meth:`features`; -1 where a superpixel was too small to become a token.
        """
        self._check(stage)
        small = self.hierarchy.labels(stage % len(self))[0].cpu()
        y, x = (
            torch.arange(full) * part // full
            for full, part in zip((self.image.height, self.image.width), small.shape, strict=True)
        )
        return small[y[:, None], x]

    def features(self, stage: int) -> Tensor:
        """One feature a segment: float (K, D) on the encoder's device; K is the stage's token budget."""
        self._check(stage)
        return self.hierarchy.stages[stage].x[0]

    def parents(self, stage: int) -> Tensor:
        """The segment of ``stage + 1`` that each segment of ``stage`` is in: int64 (K,).

        -1 for a row without pixels, of which there are some if an image has fewer superpixels than tokens.

        Raises:
            IndexError: for the coarsest stage, which has no parents.
        """
        self._check(stage)
        stage %= len(self)
        if stage == len(self) - 1:
            raise IndexError(f"stage {stage} is the coarsest, its segments have no parents")
        empty = self.hierarchy.stages[stage].mass[0] <= 0
        return self.hierarchy.assigns[stage][0].argmax(-1).masked_fill(empty, -1)

    def _check(self, stage: int) -> None:
        if not -len(self) <= stage < len(self):
            raise IndexError(f"stage {stage} of {len(self)}; 0 is the finest, -1 the coarsest")

    def __repr__(self) -> str:
        sizes = ", ".join(str(tokens.x.shape[1]) for tokens in self.hierarchy.stages)
        return f"Segmentation({self.image.width} x {self.image.height} pixels; {sizes} segments)"


@kept_random_state()
def segment(
    image: Photo,
    model: Source | nn.Module | Encoder,
    *,
    superpixels: str | None = None,
    sizes: Sequence[int] | None = None,
    image_size: int | None = None,
    device: torch.device | str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Segmentation:
    """The fine-to-coarse segmentation of one image of any size.

    The image is resized so that its shorter side is ``image_size`` (its ratio of sides is kept up to
    4 : 1), cut into superpixels and handed to the encoder; labels come back at the image's own size.  Global
    random states are left as they were.

    Args:
        image: a PIL image, an array uint8 (H, W), (H, W, 3) or (H, W, 4), or a file's path.  An image
            is turned upright as its EXIF says, as viewers do.
        model: an encoder; or what :func:`castssl.load_encoder` takes, such as a run's folder, a checkpoint
            file or ``timm.create_model("cast_small")``.  To segment many images, load it once and give what
            that returns.
        superpixels: another backend than the model was trained with, such as ``seeds:count=324``.
        sizes: other token budgets per stage, with the same weights (Table 5d), such as 324 128 64 32 16; by
            default the model's own, the first with room for the superpixels.
        image_size: another shorter side in pixels.
        device: where to run; by default where the encoder is.
        value_range: the values of black and white in an image of more than 8 bits, where its file does not
            say, such as (0, 4095).

    Raises:
        DataError: if the image or the weights cannot be read.
        ConfigError: if the superpixels are more than the first size has room for.
    """
    encoder, photo = load_encoder(model), read_photo(image, value_range)
    backend: Superpixels = build("superpixels", superpixels or encoder.config.superpixels)
    seen = to_uint8(_shrink(photo, encoder, image_size or encoder.config.image_size))[None]
    if encoder.uses_superpixels:
        capacity = backend.capacity(*seen.shape[-2:])
        sizes = sizes_for(encoder, capacity if sizes else max(capacity, encoder.sizes[0]), sizes)
    if device is not None:
        encoder.to(device)
    worker = backend.runs_on == "worker"
    segments = partition(backend, seen) if worker else torch.empty(1, 0, 0, dtype=torch.int32)
    raw = Batch([RawView(seen, segments)], torch.empty(1, 0, dtype=torch.int64))
    place = next(iter(encoder.parameters())).device
    with evaluating(encoder), torch.no_grad(), kept_random_state(place):
        view = to_views(raw, backend, place).views[0]
        hierarchy = encoder.segment(view, sizes)
    return Segmentation(photo, seen[0], hierarchy)


def read_photo(image: Photo, declared: tuple[float, float] | None = None) -> Image.Image:
    """The image as upright RGB; see :func:`segment`.

    Raises:
        DataError: saying what was expected.
    """
    values = None if declared is None else Range(*declared)
    _refuse_other(image)
    if isinstance(image, Image.Image):
        return read(image, declared=values).image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
            raise DataError(
                f"expected an array uint8 of shape (H, W), (H, W, 3) or (H, W, 4) with values 0 to 255, got"
                f" {image.dtype} of shape {image.shape}"
            )
        return read(Image.fromarray(image)).image
    try:
        with Path(image).expanduser().open("rb") as file:
            decoded = read(header(file, values), declared=values)
    except Exception as error:  # decoders raise almost anything on a broken file
        raise DataError(
            f"cannot read the image {image}: {why(error)}; expected a file that PIL reads"
        ) from error
    if decoded.remark:
        _log.warning("%s", printable(f"the image {image}: {decoded.remark}"))
    return decoded.image


def _refuse_other(image: object) -> None:
    expected = "expected one image: a PIL image, an array uint8 (H, W, 3), or a file's path"
    if isinstance(image, Tensor):
        turn = "give image.permute(1, 2, 0).cpu().numpy() of an image (3, H, W) with values 0 to 255"
        raise DataError(f"{expected}; got a tensor {image.dtype} of shape {tuple(image.shape)}: {turn}")
    if isinstance(image, list | tuple | set | dict):
        advice = "load the model once by castssl.load_encoder, call segment for each image"
        raise DataError(f"{expected}; got a {type(image).__name__} of {len(image)}: {advice}")
    if not isinstance(image, Image.Image | np.ndarray | str | Path):
        raise DataError(f"{expected}; got a {type(image).__name__}")


def _shrink(photo: Image.Image, encoder: Encoder, side: int) -> Image.Image:
    if not encoder.uses_superpixels:
        return photo.resize((side, side), Image.Resampling.BILINEAR)
    shorter = min(photo.size)
    stride = encoder.stride
    width, height = (
        max(1, round(side * min(edge / shorter, SLIMMEST) / stride)) * stride for edge in photo.size
    )
    return photo.resize((width, height), Image.Resampling.BILINEAR)
