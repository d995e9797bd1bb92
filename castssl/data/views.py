"""Images become views: MoCo v3's two, DeiT's one, one random crop, and the center crop of evaluation.

Each takes an image, of RGB or other channels, and returns uint8 tensors.  :mod:`castssl.data.normalize`
normalizes them later, so that superpixels see plain colors.  All random numbers are torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import transforms as T

from castssl.data.normalize import denormalize
from castssl.data.photometric import MOCO, ColorAugment, Pixels, augment_colors
from castssl.data.rng import seeded
from castssl.datasets.images import Box, Plan
from castssl.datasets.multichannel import MultiChannel
from castssl.errors import ConfigError

__all__ = [
    "MOCO",
    "Augment",
    "CenterView",
    "ColorAugment",
    "CroppedView",
    "OneView",
    "SquashedView",
    "SupervisedView",
    "TwoViews",
]

SLIM = 8
"""Of an image with a larger aspect ratio only the part that is used is resized."""
Policy = Literal["randaugment", "three", "none"]
_POLICIES: dict[str, str | None] = {"randaugment": "rand-m9-mstd0.5-inc1", "three": "3a", "none": None}
Views = list[Tensor]
"""One uint8 (C, size, size) tensor per view."""
_Window = tuple[int, int, int, int]  # Left, top, right and bottom in pixels.


class CroppedView(NamedTuple):
    """A view and its place in the image, so that a map of the image can be cropped and flipped likewise.

    Attributes:
        image: uint8 (C, size, size).
        box: the part of the image that the view shows.
        flipped: whether left and right were exchanged after the crop.
    """

    image: Tensor
    box: Box
    flipped: bool


class Augment:
    """The interface of an augmentation.

    Attributes:
        views: number of views of one image.
        bends: True if the views are sheared, rotated or shifted, so ``box`` does not place every pixel.
    """

    views: int = 1
    bends: bool = False

    def plan(self, width: int, height: int) -> Plan:
        """Draw the crops of an image of this size; by default none: the whole image is needed."""
        return Plan((), 1)

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """The views of an image, of ``plan`` if it was drawn before, and their places."""
        raise NotImplementedError

    def __call__(self, image: Image.Image) -> Views:
        """The views alone: uint8 (C, size, size) each."""
        return [view.image for view in self.crop(image)]


class TwoViews(Augment):
    """MoCo v3's two random views: crop, jitter, grayscale, blur, solarize, flip.

    Chen, Xie and He 2021 (https://arxiv.org/abs/2104.02057), section 4; CAST uses the same.

    Args:
        size: side of a view in pixels.
        crop_min: the smallest share of the image's area that a crop covers (the largest is 1), at an aspect
            ratio of 3/4 to 4/3, resized bilinearly.
        blur: the largest radius of the blur in pixels.  The published 2 is meant for views of 224 pixels; in
            much smaller ones it removes all texture.
        colors: the probabilities of each view; their number is the number of views.

    Raises:
        ConfigError: if a number is out of range.
    """

    def __init__(
        self, size: int, crop_min: float = 0.08, *, blur: float = 2.0, colors: Sequence[ColorAugment] = MOCO
    ) -> None:
        _check_size(size)
        if blur < 0.1:
            raise ConfigError(f"the blur's radius is drawn from 0.1 to blur pixels, got blur {blur}")
        self.views = len(colors)
        self.size = size
        self.crop_min = crop_min
        self.blur = blur
        self.colors = tuple(colors)

    def plan(self, width: int, height: int) -> Plan:
        """The crops of an image of this size, by torchvision's law; no pixel is read."""
        shape = torch.empty((3, height, width), device="meta")
        boxes, least = [], min(width, height)
        for _ in range(self.views):
            ratios = [3 / 4, 4 / 3]
            top, left, high, wide = T.RandomResizedCrop.get_params(shape, [self.crop_min, 1.0], ratios)
            boxes.append(_to_box((left, top, left + wide, top + high), width, height))
            least = min(least, high, wide)
        return Plan(tuple(boxes), _shrink(least / self.size))

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """One view for each entry of ``colors``, and their places."""
        boxes = (plan or self.plan(*image.size)).boxes
        pixels = np.asarray(image)
        return [self._view(pixels, box, colors) for box, colors in zip(boxes, self.colors, strict=True)]

    def _view(self, pixels: Pixels, box: Box, colors: ColorAugment) -> CroppedView:
        height, width = pixels.shape[:2]
        left, top, right, bottom = window = _to_window(box, width, height)
        # A copy, because torch is slower on rows with gaps between them.
        crop = torch.from_numpy(np.array(pixels[top:bottom, left:right]))[None].permute(0, 3, 1, 2)
        # PIL's filter, to within one gray value, in a quarter of its time.
        small = interpolate(crop, (self.size, self.size), mode="bilinear", antialias=True)
        view = augment_colors(small[0].permute(1, 2, 0).contiguous().numpy(), colors, self.blur)
        flipped = bool(torch.rand(1) < colors.flip)
        return CroppedView(_tensor(view, flipped), _to_box(window, width, height), flipped)


class OneView(TwoViews):
    """One random crop, flipped half of the time, for the training of a linear probe.

    Args:
        size: side of the view in pixels.
        crop_min: as in :class:`TwoViews`.
    """

    def __init__(self, size: int, crop_min: float = 0.08) -> None:
        super().__init__(size, crop_min, colors=[ColorAugment(0, 0, 0, 0, 0.5)])


class SupervisedView(OneView):
    """A random bicubic crop, flipped half of the time, with RandAugment and random erasing, as in DeiT.

    Touvron et al. 2021 (https://arxiv.org/abs/2012.12877), table 9; CAST, Table 12.  By timm.

    Args:
        size: side of the view in pixels.
        policy: ``"randaugment"`` (two of fifteen operations, https://arxiv.org/abs/1909.13719, at magnitude 9
            with a deviation of 0.5); ``"three"``, the 3-Augment of DeiT III (grayscale, solarize or blur,
            then color jitter of 0.3, https://arxiv.org/abs/2204.07118), which erases nothing; or ``"none"``.
        erase: probability that a rectangle of 2 to 33 % of the view becomes noise
            (https://arxiv.org/abs/1708.04896): normally distributed in normalized colors, as published, but
            clipped to the range of 8 bits.
        crop_min: the smallest share of the image's area that a crop covers (the largest is 1).

    Raises:
        ConfigError: if the policy is unknown or a number is out of range.
    """

    def __init__(
        self, size: int, *, policy: Policy = "randaugment", erase: float = 0.25, crop_min: float = 0.08
    ) -> None:
        # Imported late: timm takes seconds.
        from timm.data.random_erasing import RandomErasing
        from timm.data.transforms_factory import create_transform

        super().__init__(size, crop_min)
        if policy not in _POLICIES:
            raise ConfigError(f"policy: got {policy!r}, expected one of {', '.join(_POLICIES)}")
        if not 0 <= erase <= 1:
            raise ConfigError(f"erase is a probability: expected 0 to 1, got {erase}")
        self.bends = policy == "randaugment"
        jitter = 0.3 if policy == "three" else None
        options: dict[str, Any] = {"auto_augment": _POLICIES[policy], "color_jitter": jitter}
        # The second of three parts: the transforms between crop and tensor.
        _, self._augment, _ = create_transform(
            size, is_training=True, interpolation="bicubic", separate=True, **options
        )
        erase = 0.0 if policy == "three" else erase
        self._erase = RandomErasing(erase, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """One view, and its place."""
        (box,) = (plan or self.plan(*image.size)).boxes
        window = _to_window(box, *image.size)
        view = image.crop(window).resize((self.size, self.size), Image.Resampling.BICUBIC)
        if flipped := bool(torch.rand(1) < 0.5):
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        augmented = to_uint8(self._augmented(view))
        # timm erases normalized floats: its noise is drawn into NaN, and copied.
        noise = self._erase(torch.full(augmented.shape, torch.nan))
        colors = torch.where(noise.isnan(), augmented, denormalize(noise.nan_to_num()))
        return [CroppedView(colors, box, flipped)]

    def _augmented(self, view: Image.Image) -> Image.Image:
        """The view after the policy, which is the same for each channel of a view of other than RGB."""
        if not isinstance(view, MultiChannel):
            augmented: Image.Image = self._augment(view)
            return augmented
        key = int(torch.randint(2**62, (1,)))

        def change(band: Image.Image) -> Image.Image:
            with seeded(key):
                return self._augment(band)  # type: ignore[no-any-return]

        return view.map_gray(change)


class CenterView(Augment):
    """The center of the image, always the same, for evaluation; it is read at full size.

    Args:
        size: side of the view in pixels.
        ratio: the shorter side is resized to ``int(size * ratio)`` before the crop; 256/224 as usual.
        interpolation: "bilinear" (MoCo v3's probe), "bicubic" (DeiT, H-CAST), or "nearest".

    Raises:
        ConfigError: if a value is out of range.
    """

    def __init__(self, size: int, ratio: float = 256 / 224, *, interpolation: str = "bilinear") -> None:
        _check_size(size)
        if interpolation not in {"bilinear", "bicubic", "nearest"} or ratio < 1:
            raise ConfigError(
                f"CenterView takes a ratio of at least 1 and bilinear, bicubic or nearest interpolation, got"
                f" {ratio} and {interpolation!r}"
            )
        self.size = size
        # The small term keeps 224 * 256/224 from becoming 255.
        self._shorter, self._mode = int(size * ratio + 1e-6), T.InterpolationMode(interpolation)

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """One view, and its place."""
        window, (width, height) = self._window(image)
        view = resized_part(image, self._shorter, window, self._mode)
        return [CroppedView(to_uint8(view), _to_box(window, width, height), False)]

    def crop_mask(self, mask: Image.Image) -> Tensor:
        """The values that a mask of the image, of any mode, has in the view, by nearest: (size, size)."""
        part = resized_part(mask, self._shorter, self._window(mask)[0], T.InterpolationMode.NEAREST)
        return torch.from_numpy(np.array(part))

    def _window(self, image: Image.Image) -> tuple[_Window, tuple[int, int]]:
        """The view's pixels in the resized image, and the size of that image."""
        width, height = resized_size(image.size, self._shorter)
        left, top = (round((side - self.size) / 2) for side in (width, height))
        return (left, top, left + self.size, top + self.size), (width, height)


class SquashedView(Augment):
    """The whole image, resized to a square whatever its aspect ratio, for the evaluation of many labels.

    No object at the margin is lost, as by a crop; the code released with HSVLT does so
    (https://arxiv.org/abs/2407.16244).

    Args:
        size: side of the view in pixels.

    Raises:
        ConfigError: if it is below 1.
    """

    def __init__(self, size: int) -> None:
        _check_size(size)
        self.size = size

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """One view, bilinear, and its place."""
        view = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return [CroppedView(to_uint8(view), (0.0, 0.0, 1.0, 1.0), False)]


def resized_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height of an image whose shorter side is resized to ``shorter``, as in torchvision."""
    longer = int(shorter * max(size) / min(size))
    return (shorter, longer) if size[0] <= size[1] else (longer, shorter)


def resized_part(image: Image.Image, shorter: int, box: _Window, mode: T.InterpolationMode) -> Image.Image:
    """``box`` of an image whose shorter side is resized to ``shorter``.

    A slim image is not resized as a whole: 1 x 20,000 pixels would become gigabytes.

    Args:
        image: of any mode.
        shorter: pixels.
        box: left, top, right and bottom in pixels of the resized image.
        mode: bilinear, bicubic or nearest.
    """
    width, height = resized_size(image.size, shorter)
    if max(width, height) <= SLIM * shorter:
        return image.resize((width, height), Image.Resampling[mode.name]).crop(box)
    wide, high = image.width / width, image.height / height
    part = (box[0] * wide, box[1] * high, box[2] * wide, box[3] * high)
    return image.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling[mode.name], part)


def to_uint8(image: Image.Image) -> Tensor:
    """uint8 (C, H, W) of an image."""
    return _tensor(np.asarray(image), False)


def _shrink(least: float) -> int:
    """For a smallest crop whose shorter side is ``least`` times a view's.

    Some pixels more than the view's must be left: with none to spare, a view's gradients have up to 1.7 times
    the energy of one cropped from the full image, because the decoder smooths less than the resizing does;
    with these many, 0.94 to 0.99 times.
    """
    return 4 if least >= 8 else 2 if least >= 2.5 else 1


def _to_box(window: _Window, width: int, height: int) -> Box:
    left, top, right, bottom = window
    return left / width, top / height, right / width, bottom / height


def _to_window(box: Box, width: int, height: int) -> _Window:
    """The box in whole pixels, at least one."""
    left, top = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    return left, top, max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)


def _tensor(pixels: Pixels, flipped: bool) -> Tensor:
    """uint8 (C, H, W) of (H, W, C), flipped or not."""
    planes = np.empty((pixels.shape[2], *pixels.shape[:2]), np.uint8)
    cv2.split(cv2.flip(pixels, 1) if flipped else pixels, list(planes))
    return torch.from_numpy(planes)


def _check_size(size: int) -> None:
    if size < 1:
        raise ConfigError(f"a view's side must be at least 1 pixel, got {size}")
