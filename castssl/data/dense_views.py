"""Views of images with label maps: scaled, cropped, flipped and padded alike.

The order of the training view is that of mmsegmentation's pipeline for ADE20K, which Segmenter
(https://arxiv.org/abs/2105.05633) and the released CAST code use: resize, crop, flip, distort the colors,
pad. Superpixels are computed later from the finished view, so that they follow image and label map.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from castssl.data.photometric import Pixels
from castssl.data.views import Augment, CroppedView
from castssl.datasets.images import Images, Plan
from castssl.datasets.label_maps import UNKNOWN, Labels
from castssl.datasets.stream import Stream
from castssl.encoder_config import imagenet
from castssl.errors import ConfigError

TRIES = 10
"""Crops that are drawn until one has more than one class."""


class Geometry(NamedTuple):
    """Where a view lies on its image.

    Attributes:
        scaled: width and height of the whole image after scaling.
        left: column of the scaled image at which the crop begins.
        top: likewise, its row.
        width: columns of the scaled image that the crop has; the view is padded on the right.
        height: likewise, its rows; the view is padded at the bottom.
        flipped: whether left and right of the crop, not of its padding, were exchanged.
    """

    scaled: tuple[int, int]
    left: int
    top: int
    width: int
    height: int
    flipped: bool


class DenseAugment(Augment):
    """The interface of an augmentation of images and their label maps.

    Attributes:
        bends: True: the view may be padded, so the place of a crop in the image is not the whole view.
        one_size: whether all views, and all label maps, have the same size.
        reduction: superpixels that run in workers are computed on the view at 1/n of its sides, and stay at
            that resolution.
    """

    bends = True
    one_size = True
    reduction = 1

    def crop_labels(self, image: Image.Image, labels: Labels | None) -> tuple[CroppedView, Tensor]:
        """The view of an RGB image, and its label map int64 (H, W), each a class or -1.

        Args:
            image: RGB.
            labels: int32 (H, W) of the size of the image; None: all pixels are unknown.
        """
        raise NotImplementedError

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """The view alone, and its place."""
        return [self.crop_labels(image, None)[0]]

    def reduced(self, view: CroppedView) -> CroppedView:
        """The view as superpixels see it: uint8 (3, H / reduction, W / reduction), bilinear."""
        if self.reduction == 1:
            return view
        pixels = view.image.permute(1, 2, 0).numpy()
        height, width = (max(side // self.reduction, 1) for side in pixels.shape[:2])
        return view._replace(image=_to_tensor(resize(np.ascontiguousarray(pixels), (width, height))))

    def check(self, images: Images | Stream, share: int) -> None:
        """Refuse what these views cannot show.

        Args:
            images: what is loaded.
            share: images in a batch of one process.

        Raises:
            ConfigError: if the images have no label maps, or views of several sizes would share a batch.
        """
        name = type(self).__name__
        if not isinstance(images, Images) or images.maps is None:
            raise ConfigError(f"{name} needs images with label maps; give data such as voc: or pairs:")
        if not self.one_size and share > 1:
            raise ConfigError(
                f"{name} makes views of the images' own shapes, which share no batch: got {share} images per"
                " process, expected 1; lower the batch size to the number of processes"
            )


class RandomDenseView(DenseAugment):
    """A random crop of the image scaled at random, flipped half of the time, and padded: for training.

    Args:
        size: side of the view in pixels.
        shorter: the image is first resized so that its shorter side has so many pixels, times the scale.
        scales: limits of the scale, drawn evenly.
        slim: the longer side is at most so many times ``shorter``, before the scale (mmsegmentation's
            ``img_scale``); a slimmer image becomes smaller.
        largest: up to ten crops are drawn until one has two classes or more, of which none covers this share
            of its labeled pixels (``cat_max_ratio``); 1 takes the first.
        flip: probability that left and right are exchanged.
        distort: distort brightness, contrast, saturation and hue as in SSD (:func:`distort_colors`).
        native: scale the image's own sides instead, whatever their length; ``shorter`` and ``slim`` have no
            meaning then.
        reduction: see :class:`DenseAugment`.

    Raises:
        ConfigError: if a number is out of range.
    """

    def __init__(
        self,
        size: int,
        *,
        shorter: int | None = None,
        scales: tuple[float, float] = (0.5, 2.0),
        slim: float = 4.0,
        largest: float = 0.75,
        flip: float = 0.5,
        distort: bool = False,
        native: bool = False,
        reduction: int = 1,
    ) -> None:
        shorter = size if shorter is None else shorter
        if size < 1 or shorter < 1 or slim < 1 or not 0 < scales[0] <= scales[1]:
            raise ConfigError(
                "a dense view needs sides of at least 1 pixel, slim of at least 1 and positive scales in"
                f" order, got size {size}, shorter {shorter}, slim {slim}, scales {scales}"
            )
        if reduction < 1 or size % reduction:
            raise ConfigError(f"reduction {reduction}: expected a divisor of the size, {size}")
        if not (0 < largest <= 1 and 0 <= flip <= 1):
            raise ConfigError(f"largest {largest} and flip {flip}: expected shares in (0, 1] and [0, 1]")
        self.size = size
        self.shorter = shorter
        self.scales = scales
        self.slim = slim
        self.largest = largest
        self.flip = flip
        self.distort = distort
        self.native = native
        self.reduction = reduction

    def crop_labels(self, image: Image.Image, labels: Labels | None) -> tuple[CroppedView, Tensor]:
        """A random view and its label map, both (size, size)."""
        place = self.draw(image.size, labels)
        window = slice(place.top, place.top + place.height), slice(place.left, place.left + place.width)
        pixels = _flip(resize(np.asarray(image), place.scaled)[window], place.flipped)
        if self.distort:
            pixels = distort_colors(pixels)
        channels = pixels.shape[2]
        fill = [round(255 * value) for value in imagenet(channels)[0]]
        padded = np.full((self.size, self.size, channels), fill, np.uint8)
        padded[: place.height, : place.width] = pixels
        classes = np.full((self.size, self.size), UNKNOWN, dtype=np.int64)
        if labels is not None:
            crop = nearest(labels, place.scaled, place)
            classes[: place.height, : place.width] = _flip(crop, place.flipped)
        width, height = place.scaled
        right, bottom = place.left + place.width, place.top + place.height
        box = (place.left / width, place.top / height, right / width, bottom / height)
        view = CroppedView(_to_tensor(padded), box, place.flipped)
        return view, torch.from_numpy(classes)

    def draw(self, size: tuple[int, int], labels: Labels | None) -> Geometry:
        """The place of a view on an image of this width and height, by torch's generator."""
        low, high = self.scales
        scale = low + (high - low) * float(torch.rand(1))
        width, height = scaled = (
            scaled_size(size, min(size) * scale, np.inf)
            if self.native
            else scaled_size(size, self.shorter * scale, self.slim)
        )
        wide, tall = min(width, self.size), min(height, self.size)
        for _ in range(TRIES):
            left, top = _below(width - wide + 1), _below(height - tall + 1)
            place = Geometry(scaled, left, top, wide, tall, False)
            if labels is None or self.largest == 1 or self._mixed(nearest(labels, scaled, place)):
                break
        return place._replace(flipped=bool(torch.rand(1) < self.flip))

    def _mixed(self, labels: Labels) -> bool:
        counts = np.bincount(labels[labels != UNKNOWN])
        return bool(np.count_nonzero(counts) > 1 and counts.max() < self.largest * counts.sum())


class WholeView(DenseAugment):
    """The whole image, resized to a shorter side; its label map keeps the image's size, for scoring.

    Args:
        shorter: pixels of the shorter side; None leaves the image as it is.
        slim: the longer side has at most so many times as many; a slimmer image becomes smaller.

    Raises:
        ConfigError: if a number is below 1.
    """

    one_size = False

    def __init__(self, shorter: int | None, *, slim: float = 4.0) -> None:
        if (shorter is not None and shorter < 1) or slim < 1:
            raise ConfigError(f"WholeView takes numbers of at least 1, got shorter {shorter}, slim {slim}")
        self.shorter = shorter
        self.slim = slim

    def crop_labels(self, image: Image.Image, labels: Labels | None) -> tuple[CroppedView, Tensor]:
        """The resized image, and the label map at the image's own size."""
        pixels = np.asarray(image)
        if self.shorter is not None:
            pixels = resize(pixels, scaled_size(image.size, self.shorter, self.slim))
        if labels is None:
            labels = np.full(image.size[::-1], UNKNOWN, dtype=np.int32)
        return CroppedView(_to_tensor(pixels), (0, 0, 1, 1), False), torch.from_numpy(labels).long()


def scaled_size(size: tuple[int, int], shorter: float, slim: float) -> tuple[int, int]:
    """Width and height after scaling to a shorter side, or to a longer side of ``slim * shorter`` at most."""
    scale = min(shorter / min(size), slim * shorter / max(size))
    width, height = (max(int(side * scale + 0.5), 1) for side in size)
    return width, height


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """uint8 (H, W, C) pixels at another width and height, bilinear without antialiasing as in mmcv."""
    if size == pixels.shape[1::-1]:
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def nearest(labels: Labels, scaled: tuple[int, int], place: Geometry) -> Labels:
    """The part of a label map at a place: the nearest of the stored pixels, by the centers of pixels."""
    rows = _sources(place.top, place.height, scaled[1], labels.shape[0])
    columns = _sources(place.left, place.width, scaled[0], labels.shape[1])
    part: Labels = labels[rows[:, None], columns]
    return part


def _sources(first: int, count: int, scaled: int, stored: int) -> NDArray[np.int64]:
    """The stored row at the center of each of some rows of the scaled map."""
    rows = np.arange(first, first + count, dtype=np.int64)
    centers: NDArray[np.int64] = (2 * rows + 1) * stored // (2 * scaled)
    return centers


def distort_colors(pixels: Pixels) -> Pixels:
    """Brightness, contrast, saturation and hue changed at random, each half of the time.

    By up to 32 of 256, by factors of 0.5 to 1.5, and by up to 18 of 180.  Liu et al. 2016, SSD
    (https://arxiv.org/abs/1512.02325), in mmsegmentation's order: contrast comes second, or last half of the
    time.  Each step rounds to uint8.

    Args:
        pixels: uint8 (H, W, C); saturation and hue change RGB alone.
    """
    rgb = pixels.shape[2] == 3
    contrast_first = _half()
    if _half():
        pixels = _linear(pixels, 1.0, _uniform(-32, 32))
    if contrast_first and _half():
        pixels = _linear(pixels, _uniform(0.5, 1.5), 0.0)
    if _half() and rgb:
        colors = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        colors[..., 1] = _linear(colors[..., 1], _uniform(0.5, 1.5), 0.0)
        pixels = np.asarray(cv2.cvtColor(colors, cv2.COLOR_HSV2RGB), np.uint8)
    if _half() and rgb:
        colors = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        colors[..., 0] = (colors[..., 0].astype(np.int64) + _below(36) - 18) % 180
        pixels = np.asarray(cv2.cvtColor(colors, cv2.COLOR_HSV2RGB), np.uint8)
    if not contrast_first and _half():
        pixels = _linear(pixels, _uniform(0.5, 1.5), 0.0)
    return pixels


def _linear(pixels: Any, factor: float, offset: float) -> Pixels:
    changed: Pixels = np.clip(pixels.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)
    return changed


def _half() -> bool:
    return bool(torch.rand(1) < 0.5)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(1))


def _below(count: int) -> int:
    return int(torch.randint(count, (1,)))


def _flip(array: NDArray[Any], flipped: bool) -> NDArray[Any]:
    return np.ascontiguousarray(array[:, ::-1] if flipped else array)


def _to_tensor(pixels: Pixels) -> Tensor:
    """uint8 (C, H, W) of (H, W, C)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
