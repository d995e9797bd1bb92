"""The superpixels of a whole image, and those of any view of it.

A view shows between a few percent of an image and all of it, and must have about as many superpixels either
way.  So the image is partitioned finely once, its superpixels are arranged in a tree of merges, and those in
a view are merged until exactly the allowed number is left, whatever its size.

The tree is Ward's clustering (Ward 1963, https://doi.org/10.1080/01621459.1963.10500845) of neighbors by
color in Lab and position.  The position keeps superpixels compact, as in SLIC (Achanta et al. 2012,
https://doi.org/10.1109/TPAMI.2012.120).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import pairwise
from math import dist
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.datasets.images import Box
from castssl.errors import ConfigError
from castssl.superpixel_labels import partition as superpixels_of

TILES = 12
"""An image is partitioned in about this number of tiles, each with as many superpixels as the backend gives:
with SEEDS, which rounds down more in small images, about :data:`FINER` times as many as a view has."""
FINER = 8
"""With this many times the superpixels of a view, a crop of an eighth of the image still has enough."""
PIXELS = 1 << 19
"""Larger images are reduced to about this number of pixels first: a crop of 8 % still has 205 x 205."""
_COMPACT = 40.0  # The weight of the distance of two cells of a view's partition, in units of 8-bit Lab.
_MOST = 1 << 16  # Labels are stored as uint16.
_HEAD = struct.Struct("<III")


class SuperpixelTree(NamedTuple):
    """An image's fine superpixels and the order in which they merge.

    Attributes:
        labels: (H, W), in [0, n): in the order of the tree's leaves, so that merged labels are a range.
        merge_order: (n - 1,): after how many merges label i and label i + 1 are one; all different.
    """

    labels: NDArray[np.uint16]
    merge_order: NDArray[np.uint16]


def partition(image: Image.Image, superpixels: Superpixels) -> SuperpixelTree:
    """The fine superpixels of an RGB image, about :data:`FINER` times as many as the backend gives a view.

    The image is divided into a grid of tiles, as square as possible, and each is partitioned separately, so
    that any backend can make finer superpixels.

    Raises:
        ConfigError: if there are more than 65536.
    """
    width, height = image.size
    if width * height > PIXELS:
        shrink = (PIXELS / (width * height)) ** 0.5
        size = max(1, int(width * shrink)), max(1, int(height * shrink))
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    labels = _partition_tiles(pixels, superpixels)
    count = int(labels.max()) + 1
    if count > _MOST:
        raise ConfigError(
            f"{superpixels!r} makes {count} superpixels of one image, but the cache takes up to {_MOST}; ask"
            " for fewer or larger ones, or leave --superpixel-cache out"
        )
    leaves, merge_order = _merge(pixels, labels, count)
    rank = np.empty(count, np.uint16)
    rank[leaves] = np.arange(count)
    return SuperpixelTree(rank[labels], np.asarray(merge_order, np.uint16))


def crop(tree: SuperpixelTree, box: Box, flipped: bool, size: int, most: int) -> Tensor:
    """The superpixels of a view: int32 (size, size), labels from 0 without gaps, at most ``most``.

    Args:
        tree: of the whole image.
        box: the part that the view shows; each of its pixels takes the label at its center.
        flipped: whether left and right are exchanged.
        size: side of the view in pixels.
        most: the largest number of superpixels; there are fewer only if the view shows fewer fine ones.
    """
    height, width = tree.labels.shape
    y, x = _centers(box[1], box[3], size, height), _centers(box[0], box[2], size, width)
    view = tree.labels[y[:, None], x[::-1] if flipped else x]
    present = np.zeros(len(tree.merge_order) + 1, bool)
    present[view] = True
    kept = np.flatnonzero(present)
    separate = np.ones(len(kept) - 1, bool)  # Whether each label stays apart from the one before it.
    if len(kept) > most:
        # Two leaves are one as soon as all that lie between them are.
        merged_at = np.maximum.reduceat(tree.merge_order[: kept[-1]], kept[:-1])
        separate[np.argsort(merged_at)[: len(separate) - (most - 1)]] = False
    table = np.zeros(len(present), np.int32)
    table[kept[1:]] = np.cumsum(separate)
    return torch.from_numpy(table[view])


def _centers(low: float, high: float, size: int, pixels: int) -> NDArray[np.int64]:
    centers = (low + (np.arange(size) + 0.5) / size * (high - low)) * pixels
    return np.clip(centers.astype(np.int64), 0, pixels - 1)


def pack(tree: SuperpixelTree) -> bytes:
    """As bytes, compressed without loss."""
    height, width = tree.labels.shape
    change = tree.labels.copy()
    change[1:] -= tree.labels[:-1]  # Mostly zeros.
    parts = (np.ascontiguousarray(part, "<u2").tobytes() for part in (tree.merge_order, change))
    return zlib.compress(b"".join([_HEAD.pack(height, width, len(tree.merge_order)), *parts]))


def unpack(packed: bytes) -> SuperpixelTree:
    """The inverse of :func:`pack`.

    Raises:
        ValueError: if the bytes are not a complete entry.
    """
    try:
        content = zlib.decompress(packed)
        height, width, count = _HEAD.unpack_from(content)
        numbers = np.frombuffer(content, "<u2", offset=_HEAD.size)
        change = numbers[count:].reshape(height, width)
    except (zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"these {len(packed)} bytes hold no superpixels: {error}") from error
    labels = np.add.accumulate(change, axis=0, dtype=np.uint16)
    return SuperpixelTree(labels, numbers[:count].astype(np.uint16))


def _partition_tiles(pixels: NDArray[np.uint8], superpixels: Superpixels) -> NDArray[np.int64]:
    """Labels (H, W) without gaps."""
    height, width = pixels.shape[:2]
    columns = min(width, max(1, round((TILES * width / height) ** 0.5)))
    rows = min(height, max(1, round(TILES / columns)))
    labels = np.empty((height, width), np.int64)
    used = 0
    for top, bottom in pairwise(height * row // rows for row in range(rows + 1)):
        for left, right in pairwise(width * column // columns for column in range(columns + 1)):
            tile = torch.from_numpy(pixels[top:bottom, left:right].transpose(2, 0, 1).copy())
            labels[top:bottom, left:right] = superpixels_of(superpixels, tile[None])[0].numpy() + used
            used += superpixels.capacity(bottom - top, right - left)
    return np.unique(labels, return_inverse=True)[1].reshape(height, width)


def _merge(pixels: NDArray[np.uint8], labels: NDArray[np.int64], count: int) -> tuple[list[int], list[int]]:
    """The leaves in the tree's order, and after how many merges each is one with the next."""
    mass, means = _moments(pixels, labels, count)

    def cost(one: int, other: int) -> float:
        """The growth of the sum of squared distances from the means if two clusters become one."""
        return mass[one] * mass[other] / (mass[one] + mass[other]) * dist(means[one], means[other]) ** 2

    near: list[set[int]] = [set() for _ in range(count)]
    heap = []
    for one, other in _neighbors(labels, count):
        near[one].add(other)
        near[other].add(one)
        heap.append((cost(one, other), one, other))
    heapify(heap)
    leaves, merge_order = [[leaf] for leaf in range(count)], [list[int]() for _ in range(count)]
    merges = 0
    while heap:
        _, one, other = heappop(heap)
        if not (leaves[one] and leaves[other]):
            continue  # One of them has merged since.
        both = len(leaves)
        leaves.append(leaves[one] + leaves[other])
        merge_order.append([*merge_order[one], merges, *merge_order[other]])
        leaves[one], leaves[other] = [], []
        share = mass[one] / (mass[one] + mass[other])
        means.append([share * a + (1 - share) * b for a, b in zip(means[one], means[other], strict=True)])
        mass.append(mass[one] + mass[other])
        near.append((near[one] | near[other]) - {one, other})
        for third in near[both]:
            near[third] -= {one, other}
            near[third].add(both)
            heappush(heap, (cost(third, both), third, both))
        merges += 1
    return leaves[-1], merge_order[-1]


def _moments(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], count: int
) -> tuple[list[float], list[list[float]]]:
    """Pixels of each superpixel, and the means of its L, a, b, y and x, the last two scaled to count."""
    height, width = labels.shape
    flat = labels.ravel()
    mass = np.bincount(flat, minlength=count).astype(np.float64)
    scale = _COMPACT / (height * width * FINER / count) ** 0.5
    lab = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)).reshape(-1, 3)
    y, x = np.repeat(np.arange(height) * scale, width), np.tile(np.arange(width) * scale, height)
    sums = [np.bincount(flat, values, count) for values in (*lab.T, y, x)]
    return mass.tolist(), (np.stack(sums, 1) / mass[:, None]).tolist()


def _neighbors(labels: NDArray[np.int64], count: int) -> Iterator[tuple[int, int]]:
    """Each pair of labels, the smaller first, that share an edge of a pixel."""
    pairs = [(labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])]
    codes = [(np.minimum(a, b) * count + np.maximum(a, b))[a != b] for a, b in pairs]
    for code in np.unique(np.concatenate(codes)).tolist():
        yield divmod(code, count)
