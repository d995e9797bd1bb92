"""Class maps of whole images, or by sliding windows: what a segmentation model sees in images of any size.

Windows lie as in mmsegmentation's ``slide_inference``, which Segmenter (https://arxiv.org/abs/2105.05633)
and the published CAST use, too.  As in these two, an image whose shorter side is below the window is first
enlarged to it; mmsegmentation shows the model a smaller window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.contracts import Superpixels
from castssl.data.normalize import denormalize
from castssl.errors import ConfigError
from castssl.models.sizes import sizes_for
from castssl.modes import evaluating
from castssl.objectives.segmentation import SegmentationModel
from castssl.superpixel_labels import partition
from castssl.types import View

AT_ONCE = 16
"""Classes whose logits are resized together."""


@dataclass(frozen=True)
class Windows:
    """How an image is parted into windows whose logits are averaged.

    Args:
        size: side in pixels; an image whose shorter side is smaller is enlarged to it.
        stride: pixels from one window to the next; the last one ends at the image's border.
        once: compute the superpixels of the whole image once, and cut them; else those of each window, as
            published.

    Raises:
        ConfigError: unless 1 <= stride <= size.
    """

    size: int
    stride: int
    once: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.size:
            raise ConfigError(
                f"windows of {self.size} pixels with stride {self.stride} would leave pixels out: the stride"
                f" is 1 to {self.size}"
            )


def boxes(height: int, width: int, windows: Windows) -> list[tuple[int, int, int, int]]:
    """Top, left, bottom and right of each window, row by row."""
    rows, columns = (_anchors(side, windows) for side in (height, width))
    size = windows.size
    return [(y, x, min(y + size, height), min(x + size, width)) for y in rows for x in columns]


def _anchors(side: int, windows: Windows) -> list[int]:
    last = max(side - windows.size, 0)
    count = -(-last // windows.stride) + 1
    return [min(at * windows.stride, last) for at in range(count)]


def class_logits(
    model: SegmentationModel,
    view: View,
    superpixels: Superpixels,
    windows: Windows | None = None,
    *,
    longer: int | None = None,
) -> Tensor:
    """Logits of each pixel, in evaluation mode: float32 (B, C, H, W) where the view is.

    H and W are those of the view, those of ``longer``, or larger for a view whose shorter side is below the
    window.

    Args:
        model: an encoder with a head, on the view's device.
        view: images of any one size, normalized, with their superpixels.
        superpixels: the backend that computed these.
        windows: None to show the model the whole image.
        longer: show the whole image with so many pixels of its longer side, see :func:`with_longer_side`.
    """
    with evaluating(model), torch.no_grad():
        if windows is None:
            if longer is None:
                return _logits(model, view, superpixels.capacity(*view.image.shape[-2:]))
            view, count = with_longer_side(view, superpixels, longer)
            return _logits(model, view, count, exact=True)
        view = _enlarged(view, windows.size)
        batch, (height, width) = len(view.image), view.image.shape[-2:]
        total = torch.zeros(batch, model.classes, height, width, device=view.image.device)
        seen = torch.zeros(height, width, device=view.image.device)
        for top, left, bottom, right in boxes(height, width, windows):
            at = (..., slice(top, bottom), slice(left, right))
            total[at] += _logits(model, *_window(view, at, superpixels, windows))
            seen[at] += 1
    return total / seen


def classes_at(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The class with the largest logit where logits are resized bilinearly: int64 (B, H, W).

    Some classes are resized at once: those of ADE20K at 12 megapixels would take 7 GB together.

    Args:
        logits: float (B, C, h, w).
        size: H and W.
    """
    if logits.shape[-2:] == size:
        return logits.argmax(1)
    best = logits.new_full((len(logits), *size), -torch.inf)
    found = torch.zeros(best.shape, dtype=torch.int64, device=logits.device)
    for first in range(0, logits.shape[1], AT_ONCE):
        part = logits[:, first : first + AT_ONCE]
        value, number = F.interpolate(part, size, mode="bilinear", align_corners=False).max(1)
        larger = value > best
        best, found = torch.where(larger, value, best), torch.where(larger, number + first, found)
    return found


def _enlarged(view: View, least: int) -> View:
    """The view with a shorter side of at least so many pixels, and its own superpixels."""
    height, width = view.image.shape[-2:]
    shorter = min(height, width)
    if shorter >= least:
        return view
    return resized(view, (height * least // shorter, width * least // shorter))


def with_longer_side(view: View, superpixels: Superpixels, longer: int) -> tuple[View, int]:
    """The view at another size, and how many superpixels it may have.

    As in the VOC code released with CAST, its superpixels are resized with it.  Those that run on the device,
    such as the patches of a ViT, are computed anew.

    Args:
        view: normalized images of any one size, with their superpixels.
        superpixels: the backend that computed these.
        longer: pixels of the longer side.
    """
    height, width = view.image.shape[-2:]
    count, most = superpixels.capacity(height, width), max(height, width)
    size = max(height * longer // most, 1), max(width * longer // most, 1)
    view = resized(view, size)
    if superpixels.runs_on == "device":
        labels = partition(superpixels, denormalize(view.image))
        view, count = View(view.image, labels), superpixels.capacity(*size)
    return view, count


def resized(view: View, size: tuple[int, int]) -> View:
    """The view at another height and width: its image bilinear, its superpixels by nearest."""
    height, width = view.image.shape[-2:]
    if size == (height, width):
        return view
    image = F.interpolate(view.image, size, mode="bilinear", align_corners=False)
    if not view.segments.numel():
        return View(image, view.segments)
    rows, columns = (
        (2 * torch.arange(new, device=image.device) + 1) * old // (2 * new)
        for new, old in zip(size, (height, width), strict=True)
    )
    return View(image, view.segments[:, rows[:, None], columns])


def _window(view: View, at: Any, superpixels: Superpixels, windows: Windows) -> tuple[View, int]:
    """What a window shows, and how many superpixels it may have."""
    image = view.image[at]
    if windows.once:
        labels, count = renumber(view.segments[at]) if view.segments.numel() else (view.segments, 1)
        return View(image, labels), count
    pixels = denormalize(image)
    labels = partition(superpixels, pixels.cpu() if superpixels.runs_on == "worker" else pixels)
    return View(image, labels.to(image.device)), superpixels.capacity(*image.shape[-2:])


def _logits(model: SegmentationModel, view: View, count: int, *, exact: bool = False) -> Tensor:
    """Logits float32 (B, C, H, W) of images as they are, with so many superpixels at most.

    ``exact``: no more tokens than these, so that all cells of a grid are tokens, and no others.
    """
    encoder = model.encoder
    least = 0 if exact else encoder.sizes[0]
    sizes = sizes_for(encoder, max(count, least)) if encoder.uses_superpixels else None
    return model(view, sizes).float()


def renumber(labels: Tensor) -> tuple[Tensor, int]:
    """The labels of each image from 0 on without gaps, in their order: int32 (B, H, W); and how many at most.

    -1 stays.  It waits for a device.
    """
    flat = labels.flatten(1).long()
    offset = torch.arange(len(flat), device=flat.device)[:, None] * (flat.max() + 2)
    # -1 is the first of each image, which is so even where no pixel has it.
    first = torch.cat([torch.full_like(flat[:, :1], -1), flat], 1) + offset
    inverse = torch.unique(first, return_inverse=True)[1]
    found = (inverse - inverse[:, :1] - 1)[:, 1:]
    return found.int().view(labels.shape), int(found.max()) + 1
