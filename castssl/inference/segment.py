"""An image's hierarchy of segments in one call: ``castssl.segment(image, model)``.

CAST, https://arxiv.org/abs/2210.00314, section 3 and figure 5: the segmentation is what its poolings did.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, overload

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from castssl.checkpoints.load import Source, load_encoder
from castssl.contracts import Encoder, Superpixels
from castssl.data.to_view import view_of
from castssl.data.views import to_uint8
from castssl.datasets.multichannel import to_rgb_image
from castssl.inference.photos import Photo, Photos, read_photo, separate
from castssl.models.sizes import sizes_for
from castssl.modes import evaluating, kept_random_state
from castssl.registry import build_superpixels
from castssl.superpixel_labels import three_channels
from castssl.types import Hierarchy, View

if TYPE_CHECKING:
    from typing_extensions import Unpack

SLIMMEST = 4
"""An image with a larger ratio of its sides is squeezed to this one before the encoder sees it."""
LEAST, MOST = 128, 384
"""Pixels of the shorter side of the encoder's input: the image's own, within these limits."""


class Segmentation:
    """One image's hierarchy: at each stage, segments with a feature each, and the larger ones they are in.

    Stages count from 0, the superpixels, to ``len(...) - 1``, the coarsest; -1 is the coarsest, too.

    Attributes:
        image: the image in RGB, as it was given; of other channels, the three of the superpixels.
        seen: what the encoder saw of it, uint8 (3, h, w), likewise.
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
        return resize_labels(small, self.image.height, self.image.width)

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
        return self.hierarchy.into(stage)[0].masked_fill(empty, -1)

    def _check(self, stage: int) -> None:
        if not -len(self) <= stage < len(self):
            raise IndexError(f"stage {stage} of {len(self)}; 0 is the finest, -1 the coarsest")

    def __repr__(self) -> str:
        sizes = ", ".join(str(tokens.x.shape[1]) for tokens in self.hierarchy.stages)
        return f"Segmentation({self.image.width} x {self.image.height} pixels; {sizes} segments)"


def resize_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """A label map (h, w) at another size: each pixel has the label of the one that it lies in."""
    y, x = (
        torch.arange(full) * part // full for full, part in zip((height, width), labels.shape, strict=True)
    )
    return labels[y[:, None], x]


class _Options(TypedDict, total=False):
    superpixels: str | None
    sizes: Sequence[int] | None
    image_size: int | None
    device: torch.device | str | None
    value_range: tuple[float, float] | None


_Model: TypeAlias = Source | nn.Module | Encoder


@overload
def segment(  # type: ignore[overload-overlap] # a str is a sequence of str
    image: Image.Image | str | Path, model: _Model, **options: Unpack[_Options]
) -> Segmentation: ...


@overload
def segment(image: Sequence[Photo], model: _Model, **options: Unpack[_Options]) -> list[Segmentation]: ...


@overload
def segment(image: NDArray[Any] | Tensor, model: _Model, **options: Unpack[_Options]) -> Any: ...


@kept_random_state()
def segment(
    image: Photos,
    model: _Model,
    *,
    superpixels: str | None = None,
    sizes: Sequence[int] | None = None,
    image_size: int | None = None,
    device: torch.device | str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Segmentation | list[Segmentation]:
    """The fine-to-coarse segmentation of one image of any size, or of each image of a list or a batch.

    An image is resized, cut into superpixels and handed to the encoder; labels come back at the image's own
    size.  The size of the encoder's input follows from the image, not from the training: its shorter side is
    the image's own, at least 128 and at most 384 pixels, and its ratio of sides is kept up to 4 : 1.
    ``image_size`` sets another shorter side.  An encoder without superpixels, such as a ViT of timm, takes
    squares of the side that it was trained at.  Global random states are left as they were.

    Args:
        image: a file's path; a PIL image; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a tensor
            (3, H, W) or (1, H, W), of uint8 or of floats from 0 to 1; a list of these; or a batch, which has
            one dimension more: an array (N, H, W, 3), a tensor (N, 3, H, W).  Files and PIL images are turned
            upright as their EXIF says, as viewers do.
        model: an encoder; or what :func:`castssl.load_encoder` takes, such as a run's folder, a checkpoint
            file or ``timm.create_model("cast_small")``.  To segment many images, load it once and give what
            that returns, or give a list.
        superpixels: another backend than the model was trained with, such as ``seeds:count=324``.
        sizes: other token budgets per stage, with the same weights (Table 5d), such as 324 128 64 32 16; by
            default the model's own, the first with room for the superpixels.
        image_size: the shorter side in pixels.
        device: where to run; by default where the encoder is.
        value_range: the values of black and white in an image of more than 8 bits, where its file does not
            say, such as (0, 4095).

    Returns:
        A :class:`Segmentation`; for a list or a batch, a list of them in the same order.

    Raises:
        DataError: if an image or the weights cannot be read.
        ConfigError: if the superpixels are more than the first size has room for.
    """
    encoder, (photos, many) = load_encoder(model), separate(image)
    backend = build_superpixels(encoder.config, superpixels)
    if device is not None:
        encoder.to(device)
    segmentations = [
        _segment(read_photo(photo, value_range, encoder.config.channels), encoder, backend, sizes, image_size)
        for photo in photos
    ]
    return segmentations if many else segmentations[0]


def _segment(
    photo: Image.Image,
    encoder: Encoder,
    backend: Superpixels,
    sizes: Sequence[int] | None,
    image_size: int | None,
) -> Segmentation:
    place = next(iter(encoder.parameters())).device
    with evaluating(encoder), torch.no_grad(), kept_random_state(place):
        seen, view, sizes = prepare(photo, encoder, backend, sizes, image_size)
        hierarchy = encoder.segment(view, sizes)
    picture, channels = to_rgb_image(photo, backend.channels), backend.channels
    return Segmentation(picture, three_channels(seen, channels), hierarchy)


def prepare(
    photo: Image.Image,
    encoder: Encoder,
    backend: Superpixels,
    sizes: Sequence[int] | None = None,
    image_size: int | None = None,
) -> tuple[Tensor, View, Sequence[int] | None]:
    """An image as an encoder takes it; the arguments are those of :func:`segment`.

    Returns:
        The encoder's input before it is normalized, uint8 (C, h, w); the view of it, a batch of one on the
        encoder's device; and token budgets with room for the superpixels, None for the encoder's own.
    """
    seen = to_uint8(_shrink(photo, encoder, image_size))[None]
    if encoder.uses_superpixels:
        capacity = backend.capacity(*seen.shape[-2:])
        sizes = sizes_for(encoder, capacity if sizes else max(capacity, encoder.sizes[0]), sizes)
    return seen[0], view_of(seen, backend, next(iter(encoder.parameters())).device), sizes


def _shrink(photo: Image.Image, encoder: Encoder, side: int | None) -> Image.Image:
    """The encoder's input, see :func:`segment`."""
    if not encoder.uses_superpixels:
        side = side or encoder.config.image_size
        return photo.resize((side, side), Image.Resampling.BILINEAR)
    shorter, stride = min(photo.size), encoder.stride
    side = side or min(max(shorter, LEAST), MOST)
    width, height = (
        max(1, round(side * min(edge / shorter, SLIMMEST) / stride)) * stride for edge in photo.size
    )
    return photo.resize((width, height), Image.Resampling.BILINEAR)
