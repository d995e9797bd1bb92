"""Pictures become views: MoCo v3's two, one random crop, and evaluation's centre crop.

Each takes an RGB picture and returns uint8 tensors; normalisation comes later, in ``to_views``, so that
superpixels see plain colours.  All randomness is torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import transforms as T
from torchvision.transforms import functional as V

from castssl.data.normalize import MEAN, STD
from castssl.data.photometric import MOCO, ColorAugment, Pixels, augment_colors
from castssl.datasets.images import Box, Plan
from castssl.errors import ConfigError

__all__ = [
    "MOCO",
    "Augment",
    "CenterView",
    "ColorAugment",
    "CroppedView",
    "OneView",
    "Policy",
    "SupervisedView",
    "TwoViews",
    "Views",
]

SLIM = 8
"""Of a picture with a larger ratio of its sides only the part that is used is resized."""
_FILTERS = {
    T.InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
    T.InterpolationMode.BICUBIC: Image.Resampling.BICUBIC,
    T.InterpolationMode.NEAREST: Image.Resampling.NEAREST,
}
Policy = Literal["randaugment", "three", "none"]
_POLICIES: dict[str, str | None] = {"randaugment": "rand-m9-mstd0.5-inc1", "three": "3a", "none": None}
Views = list[Tensor]
"""One uint8 (3, size, size) tensor per view."""


class CroppedView(NamedTuple):
    """A view, and where in the picture it lies: a map of the picture can be cut and turned likewise."""

    image: Tensor
    """uint8 (3, size, size)."""
    box: Box
    """The part of the picture that the view shows."""
    flipped: bool
    """Whether left and right were exchanged after the cut."""


class Augment(Protocol):
    """What a loader needs to know of an augmentation."""

    views: int
    """How many views it makes of one picture."""

    def plan(self, width: int, height: int) -> Plan:
        """Draw what can be drawn for a picture of this size."""
        ...

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """The views of an RGB picture, of ``plan`` if it was drawn before, and where they lie."""
        ...

    def __call__(self, image: Image.Image) -> Views:
        """The views alone."""
        ...


class TwoViews:
    """MoCo v3's two random views: crop, jitter, grey, blur, solarize, flip.

    Chen, Xie and He 2021 (https://arxiv.org/abs/2104.02057), section 4; CAST uses the same.

    Args:
        size: side of a view in pixels.
        crop_min: the smallest share of the picture's area that a crop covers (the largest is 1), at an
            aspect ratio of 3/4 to 4/3, resized bilinearly.
        blur: the largest radius of the blur in pixels.  The published 2 is meant for views of 224 pixels; in
            much smaller ones it wipes out all texture.
        colors: the probabilities of each view; as many views as colors.
    """

    def __init__(
        self, size: int, crop_min: float = 0.08, *, blur: float = 2.0, colors: Sequence[ColorAugment] = MOCO
    ) -> None:
        _positive(size)
        if blur < 0.1:
            raise ConfigError(f"the blur's radius is drawn from 0.1 to blur pixels, got blur {blur}")
        self.views = len(colors)
        self.size = size
        self.crop_min = crop_min
        self.blur = blur
        self.colors = tuple(colors)

    def plan(self, width: int, height: int) -> Plan:
        """The crops of a picture of this size."""
        return _plan(width, height, self.crop_min, self.size, self.views)

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """As many views as colors, and where they lie."""
        boxes = (plan or self.plan(*image.size)).boxes
        pixels = np.array(image)
        return [self._view(pixels, *drawn) for drawn in zip(boxes, self.colors, strict=True)]

    def _view(self, pixels: Pixels, box: Box, color: ColorAugment) -> CroppedView:
        view, box = _cut(pixels, box, self.size)
        view = augment_colors(view, color, self.blur)
        flipped = bool(torch.rand(1) < color.flip)
        return CroppedView(_tensor(view, flipped), box, flipped)

    def __call__(self, image: Image.Image) -> Views:
        """As many uint8 (3, size, size) tensors as colors."""
        return [placed.image for placed in self.crop(image)]


class OneView(TwoViews):
    """One random crop, flipped half of the time: what a linear probe trains on.

    Args:
        size: side of the view in pixels.
        crop_min: as in :class:`TwoViews`.
    """

    def __init__(self, size: int, crop_min: float = 0.08) -> None:
        super().__init__(size, crop_min, colors=[ColorAugment(0, 0, 0, 0, 0.5)])


class SupervisedView:
    """A random bicubic crop, flipped half of the time, with RandAugment and random erasing, as in DeiT.

    Touvron et al. 2021 (https://arxiv.org/abs/2012.12877), table 9; CAST, Table 12.

    Attributes:
        bends: True if the policy shears, turns or shifts what the crop shows.

    Args:
        size: side of the view in pixels.
        policy: ``"randaugment"`` (two of fifteen operations, https://arxiv.org/abs/1909.13719, at magnitude 9
            with a deviation of 0.5); ``"three"``, the 3-Augment of DeiT III (grey, solarize or blur, then
            colour jitter of 0.3, https://arxiv.org/abs/2204.07118), which erases nothing; or ``"none"``.
        erase: probability that a rectangle of 2 to 33 % of the view becomes noise
            (https://arxiv.org/abs/1708.04896): normally distributed in normalised colours, as published, but
            clipped to what 8 bits hold.
        crop_min: the smallest share of the picture's area that a crop covers (the largest is 1).

    Raises:
        ConfigError: if the policy is unknown or a number is out of range.
    """

    views = 1

    def __init__(
        self, size: int, *, policy: Policy = "randaugment", erase: float = 0.25, crop_min: float = 0.08
    ) -> None:
        # Imported late: timm takes seconds.
        from timm.data.random_erasing import RandomErasing
        from timm.data.transforms_factory import create_transform

        if policy not in _POLICIES:
            raise ConfigError(f"policy: got {policy!r}, expected one of {', '.join(_POLICIES)}")
        if not 0 <= erase <= 1:
            raise ConfigError(f"erase is a probability: expected 0 to 1, got {erase}")
        self.size = size
        self.bends = policy == "randaugment"
        self._crop = OneView(size, crop_min)
        jitter = 0.3 if policy == "three" else None
        options: dict[str, Any] = {"auto_augment": _POLICIES[policy], "color_jitter": jitter}
        # The second of three parts: what comes between crop and tensor.
        _, self._augment, _ = create_transform(
            size, is_training=True, interpolation="bicubic", mean=MEAN, std=STD, separate=True, **options
        )
        erase = 0.0 if policy == "three" else erase
        self._erase = RandomErasing(erase, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]

    def plan(self, width: int, height: int) -> Plan:
        """The crop of a picture of this size."""
        return self._crop.plan(width, height)

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """One view, and where it was cut from; if it ``bends``, not all of it lies there still."""
        (box,) = (plan or self.plan(*image.size)).boxes
        left, top, right, bottom = (
            round(share * side) for share, side in zip(box, image.size * 2, strict=True)
        )
        left, top = min(left, image.width - 1), min(top, image.height - 1)
        pixels = (left, top, max(right, left + 1), max(bottom, top + 1))
        view = image.crop(pixels).resize((self.size, self.size), Image.Resampling.BICUBIC)
        if flipped := bool(torch.rand(1) < 0.5):
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return [CroppedView(self._erased(to_uint8(self._augment(view))), box, flipped)]

    def __call__(self, image: Image.Image) -> Views:
        """One uint8 (3, size, size) tensor."""
        return [placed.image for placed in self.crop(image)]

    def _erased(self, view: Tensor) -> Tensor:
        # timm erases normalised floats: let it write into nothing, and take over what it wrote.
        noise = self._erase(torch.full(view.shape, torch.nan))
        colours = (noise * _column(STD) + _column(MEAN)).clamp(0, 1) * 255
        return torch.where(noise.isnan(), view, colours.nan_to_num().round().to(torch.uint8))


class CenterView:
    """The centre of the picture, the same each time: what evaluation looks at.

    Args:
        size: side of the view in pixels.
        ratio: the shorter side is resized to ``int(size * ratio)`` before the crop; 256/224 as usual.
        interpolation: "bilinear" (MoCo v3's probe), "bicubic" (DeiT, H-CAST), or "nearest".
    """

    views = 1

    def __init__(self, size: int, ratio: float = 256 / 224, *, interpolation: str = "bilinear") -> None:
        _positive(size)
        if interpolation not in {mode.value for mode in T.InterpolationMode} or ratio < 1:
            raise ConfigError(
                f"CenterView takes a ratio of at least 1 and bilinear, bicubic or nearest interpolation, got"
                f" {ratio} and {interpolation!r}"
            )
        self.size = size
        # the small term keeps 224 * 256/224 from becoming 255
        self._shorter, self._mode = int(size * ratio + 1e-6), T.InterpolationMode(interpolation)

    def plan(self, width: int, height: int) -> Plan:
        """The whole picture, at full size: numbers of an evaluation should not depend on a decoder."""
        return Plan((), 1)

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """One view, and where it lies."""
        pixels, (width, height) = self._box(image)
        view = resized_part(image, self._shorter, pixels, self._mode)
        return [CroppedView(to_uint8(view), _shares(pixels, width, height), False)]

    def crop_mask(self, mask: Image.Image) -> Tensor:
        """The values that a mask of the image, of any mode, has in the view, by nearest: (size, size)."""
        part = resized_part(mask, self._shorter, self._box(mask)[0], T.InterpolationMode.NEAREST)
        return torch.from_numpy(np.array(part))

    def _box(self, image: Image.Image) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        """The view's pixels in the resized image, and the size of that image."""
        width, height = resized_size(image.size, self._shorter)
        left, top = (round((side - self.size) / 2) for side in (width, height))
        return (left, top, left + self.size, top + self.size), (width, height)

    def __call__(self, image: Image.Image) -> Views:
        """One uint8 (3, size, size) tensor."""
        return [placed.image for placed in self.crop(image)]


def resized_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height of a picture whose shorter side is resized to ``shorter``, as in torchvision."""
    longer = int(shorter * max(size) / min(size))
    return (shorter, longer) if size[0] <= size[1] else (longer, shorter)


def resized_part(
    image: Image.Image, shorter: int, box: tuple[int, int, int, int], mode: T.InterpolationMode
) -> Image.Image:
    """``box`` of a picture whose shorter side is resized to ``shorter``.

    A slim picture is not resized as a whole: 1 x 20,000 pixels would become gigabytes.

    Args:
        image: of any mode.
        shorter: pixels.
        box: left, top, right and bottom in pixels of the resized picture.
        mode: bilinear, bicubic or nearest.
    """
    width, height = resized_size(image.size, shorter)
    if max(width, height) <= SLIM * shorter:
        whole: Image.Image = V.resize(image, [shorter], mode)
        return whole.crop(box)
    wide, high = image.width / width, image.height / height
    part = (box[0] * wide, box[1] * high, box[2] * wide, box[3] * high)
    return image.resize((box[2] - box[0], box[3] - box[1]), _FILTERS[mode], part)


def to_uint8(image: Image.Image) -> Tensor:
    """uint8 (3, H, W) of an RGB picture."""
    return _tensor(np.asarray(image), False)


def _plan(width: int, height: int, crop_min: float, size: int, views: int) -> Plan:
    # the crops' law is torchvision's, and no pixel is read yet
    shape = torch.empty((3, height, width), device="meta")
    boxes, least = [], min(width, height)
    for _ in range(views):
        top, left, high, wide = T.RandomResizedCrop.get_params(shape, [crop_min, 1.0], [3 / 4, 4 / 3])
        boxes.append(_shares((left, top, left + wide, top + high), width, height))
        least = min(least, high, wide)
    return Plan(tuple(boxes), _shrink(least / size))


def _shrink(least: float) -> int:
    """For a smallest crop whose shorter side is ``least`` times a view's.

    Some pixels more than the view's must be left: with none to spare, a view's gradients have up to 1.7 times
    the energy of one cut from the full picture, because the decoder smooths less than the resizing does; with
    these many, 0.94 to 0.99 times.
    """
    return 4 if least >= 8 else 2 if least >= 2.5 else 1


def _shares(pixels: tuple[int, int, int, int], width: int, height: int) -> Box:
    left, top, right, bottom = pixels
    return left / width, top / height, right / width, bottom / height


def _cut(pixels: Pixels, box: Box, size: int) -> tuple[Pixels, Box]:
    """The box, rounded to whole pixels, resized bilinearly with antialiasing; and the rounded box."""
    height, width = pixels.shape[:2]
    left, right = round(box[0] * width), round(box[2] * width)
    top, bottom = round(box[1] * height), round(box[3] * height)
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    # a copy, because torch takes longer over rows with gaps between them
    crop = torch.from_numpy(np.ascontiguousarray(pixels[top:bottom, left:right]))[None].permute(0, 3, 1, 2)
    # PIL's filter, to within one grey value, in a quarter of its time
    view = interpolate(crop, (size, size), mode="bilinear", antialias=True)
    return view[0].permute(1, 2, 0).contiguous().numpy(), _shares((left, top, right, bottom), width, height)


def _tensor(pixels: Pixels, flipped: bool) -> Tensor:
    """uint8 (3, H, W) of (H, W, 3), mirrored or not."""
    planes = np.empty((3, *pixels.shape[:2]), np.uint8)
    cv2.split(cv2.flip(pixels, 1) if flipped else pixels, list(planes))
    return torch.from_numpy(planes)


def _positive(size: int) -> None:
    if size < 1:
        raise ConfigError(f"a view's side must be at least 1 pixel, got {size}")


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]
