"""SEEDS at an eighth of the size, then exchanges of pixels across borders: good partitions in little time.

SEEDS compares coarse histograms, which leaves pixels beside a segment that is closer to them in color.  So
its blocks alone suffice if each pixel on a border then goes to the neighbor with the nearest mean color: a
step of k-means (Lloyd 1982) that only borders take.  Explained variation measures the same.  Most steps are
taken at a quarter of the size, where they are cheap and move a border far; the last is taken at half size.
"""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from castssl.superpixels.connected import connected
from castssl.superpixels.per_image import per_planes
from castssl.superpixels.seeds import Seeds, one_thread
from castssl.superpixels.seeds_cells import cells_of, enlarge

Planes = NDArray[np.uint8]
"""The channels of an image, uint8 (3, H, W)."""

_EXCHANGES = 2
_NEIGHBORS = ((0, 1), (2, 1), (1, 0), (1, 2))
"""Where the map begins, as row and column, that has a pixel's neighbor in its place, in a framed map."""
_FIELD = 17
"""Bits of a color's sum: three of them share a float64, whose whole numbers have 53 bits."""


class SeedsFast(Seeds):
    """Superpixels of more explained variation than the paper's SEEDS, in a small part of the time.

    ``recipes/benchmarks/input.py`` measures both, and the recall of boundaries.  They are not the published
    models' superpixels.  Without ``connected``, about a tenth of the pixels lie apart from the largest part
    of their segment, most of them in specks.

    Args:
        count: as in :class:`castssl.superpixels.seeds.Seeds`, and so are the others.
        bins: histogram bins per Lab channel.
        iterations: SEEDS's sweeps over the pixels before the exchanges; its blocks alone by default.
        scale: the image is resized by this first, and its labels back to full size by nearest.  The first
            exchanges run at half of that size and SEEDS at a quarter, unless that gives fewer superpixels.
        connected: join the parts that lie apart from the rest of their segment with the segments around them.

    Raises:
        ConfigError: if an option is out of range.
        PluginError: if this OpenCV has no ``cv2.ximgproc``; names the command that repairs it.
    """

    def __init__(
        self,
        count: int = 196,
        *,
        bins: int = 2,
        iterations: int = 0,
        scale: float = 0.5,
        connected: bool = False,
    ) -> None:
        super().__init__(count, bins=bins, iterations=iterations, scale=scale, prior=0)
        self.connected = connected

    def __call__(self, images: Tensor) -> Tensor:
        """As of :class:`castssl.superpixels.seeds.Seeds`."""
        with one_thread():
            return per_planes(self._exchanged)(images)

    def _exchanged(self, planes: Planes) -> NDArray[np.int32]:
        """int32 (H, W) of an image."""
        full = planes.shape[1:]
        image = _resized(planes, *self._scaled(*full), cv2.INTER_LINEAR)
        half = self._half(image)
        labels = self._labels(np.asarray(cv2.merge(list(self._half(half))), np.uint8))
        labels, exchange = enlarge(labels, *half.shape[1:]), Exchange(half)
        for _ in range(_EXCHANGES):
            colors = exchange.colors(labels)
            labels = exchange(labels, colors)
        # Twice: joined only at the end, segments explain 0.009 less.
        labels = connected(labels) if self.connected else labels
        # The colors before the last exchange: new ones explain 0.002 more, and take 4 % of the time.
        labels = Exchange(image)(enlarge(labels, *image.shape[1:]), colors)
        if self.connected and self.scale > 1:  # Labels that shrink may fall apart.
            return connected(enlarge(labels, *full))
        return enlarge(connected(labels) if self.connected else labels, *full)

    def _half(self, planes: Planes) -> Planes:
        """The image at half size, or itself if that gives fewer superpixels."""
        height, width = planes.shape[1:]
        half = max(1, height // 2), max(1, width // 2)
        if cells_of(*half, self.count) != cells_of(height, width, self.count):
            return planes
        return _resized(planes, *half, cv2.INTER_AREA)

    def __repr__(self) -> str:
        options = f"bins={self.bins}, iterations={self.iterations}, scale={self.scale}"
        options += f", connected={self.connected}"
        return f"{type(self).__name__}(count={self.count}, {options})"


def _resized(planes: Planes, height: int, width: int, interpolation: int) -> Planes:
    """The image at another size."""
    if planes.shape[1:] == (height, width):
        return planes
    resized = np.empty((3, height, width), np.uint8)
    for plane, to in zip(planes, resized, strict=True):
        cv2.resize(plane, (width, height), to, interpolation=interpolation)
    return resized


class Exchange:
    """Each pixel gets, of its own label and those of its four neighbors, the nearest in color.

    The distance of two colors is the sum of the absolute differences of their channels.  8-bit arithmetic
    takes a fraction of the time of floats, so distances above 255 count as equal.

    Args:
        planes: uint8 (3, H, W).
    """

    def __init__(self, planes: Planes) -> None:
        _, self._height, self._width = planes.shape
        # One plane below the other, each with room for a frame of one pixel: one call serves all three.
        spaced = np.empty((3, self._height + 2, self._width), np.uint8)
        self._channels = spaced[:, : self._height]
        self._channels[:] = planes
        self._rows = spaced.reshape(-1, self._width)[:-2]

    @cached_property
    def _packed(self) -> NDArray[np.float64]:
        """The three channels of each pixel as one whole number, whose sums are those of the channels."""
        red, green, blue = self._channels
        packed: NDArray[np.float64] = red + 2.0**_FIELD * green + 4.0**_FIELD * blue
        return packed.ravel()

    def colors(self, labels: NDArray[np.int32]) -> NDArray[np.uint8]:
        """The mean color of each label, rounded: uint8 (labels, 4), RGB0; 0 for a label without pixels.

        Args:
            labels: int32 (H, W), 0 or more.
        """
        # numpy counts and gathers by 64-bit indices in half the time
        indices = labels.astype(np.int64).ravel()
        sizes = np.bincount(indices)
        if 255 * int(sizes.max()) < 2**_FIELD:
            sums = np.bincount(indices, self._packed).astype(np.int64)
            channels = sums >> np.array([[0], [_FIELD], [2 * _FIELD]]) & (2**_FIELD - 1)
        else:
            channels = np.stack([np.bincount(indices, plane.ravel()) for plane in self._channels])
        colors = np.zeros((len(sizes), 4), np.uint8)
        colors.T[:3] = channels / np.maximum(sizes, 1) + 0.5
        return colors

    def __call__(self, labels: NDArray[np.int32], colors: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The labels after the exchange; a label may vanish, none is new.

        Args:
            labels: int32 (H, W), 0 or more.
            colors: uint8 (labels, 4) of at least as many labels, such as :meth:`colors`.
        """
        height, width = labels.shape
        framed = np.asarray(cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_REPLICATE), np.int32)
        # One gather of four bytes, which OpenCV splits, takes less time than three gathers.
        gathered = colors.view(np.uint32)[:, 0].take(framed.astype(np.int64)).view(np.uint8)
        planes = np.empty((4, height + 2, width + 2), np.uint8)
        cv2.split(gathered.reshape(height + 2, width + 2, 4), list(planes))
        means = planes.reshape(-1, width + 2)
        new: NDArray[np.int32] = labels.copy()
        nearest = self._distance(means, 1, 1)
        # A tie leaves a pixel where it is.
        for y, x in _NEIGHBORS:
            distance = self._distance(means, y, x)
            closer = cv2.compare(distance, nearest, cv2.CMP_LT)
            cv2.copyTo(framed[y : y + height, x : x + width], closer, new)
            cv2.min(distance, nearest, nearest)
        return new

    def _distance(self, means: NDArray[np.uint8], y: int, x: int) -> NDArray[np.uint8]:
        """The distance of each pixel from the mean color at its place, counted from (y, x): uint8 (H, W)."""
        height, below = self._height, self._height + 2
        apart = cv2.absdiff(self._rows, means[y : y + len(self._rows), x : x + self._width])
        two = cv2.add(apart[:height], apart[below : below + height])
        return np.asarray(cv2.add(two, apart[2 * below :]), np.uint8)
