"""Views of evaluation, always the same for an image: its center, or the whole image as a square."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T

from castssl.data.random_window import Window
from castssl.data.views import Augment, CroppedView, check_size, to_box, to_uint8
from castssl.datasets.images import Plan
from castssl.errors import ConfigError

SLIM = 8
"""Of an image with a larger aspect ratio only the part that is used is resized."""


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
        check_size(size)
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
        return [CroppedView(to_uint8(view), to_box(window, width, height), False)]

    def crop_mask(self, mask: Image.Image) -> Tensor:
        """The values that a mask of the image, of any mode, has in the view, by nearest: (size, size)."""
        part = resized_part(mask, self._shorter, self._window(mask)[0], T.InterpolationMode.NEAREST)
        return torch.from_numpy(np.array(part))

    def _window(self, image: Image.Image) -> tuple[Window, tuple[int, int]]:
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
        check_size(size)
        self.size = size

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """One view, bilinear, and its place."""
        view = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return [CroppedView(to_uint8(view), (0.0, 0.0, 1.0, 1.0), False)]


def resized_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height of an image whose shorter side is resized to ``shorter``, as in torchvision."""
    longer = int(shorter * max(size) / min(size))
    return (shorter, longer) if size[0] <= size[1] else (longer, shorter)


def resized_part(image: Image.Image, shorter: int, box: Window, mode: T.InterpolationMode) -> Image.Image:
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
