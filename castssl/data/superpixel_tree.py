"""The superpixels of a whole picture, from which those of any view of it are cut.

A view shows between a few percent of a picture and all of it, and must have about as many superpixels either
way.  So the picture is partitioned finely once, its superpixels are arranged in a tree of merges, and a view
merges those that it shows until as many are left as it may have: exactly so many, whatever its size.

The tree is Ward's clustering (Ward 1963, https://doi.org/10.1080/01621459.1963.10500845) of neighbours by
colour in Lab and place.  The place keeps superpixels compact, as in SLIC (Achanta et al. 2012,
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
"""A picture is partitioned in about so many pieces, each with as many superpixels as the backend gives: with
SEEDS, which rounds down more in small pictures, about :data:`FINER` times as many as a view has."""
FINER = 8
"""So many times as many as a view has, a crop of an eighth of the picture still has as many."""
PIXELS = 1 << 19
"""Larger pictures are reduced to so many pixels first: a crop of 8 % still has 205 x 205."""
_COMPACT = 40.0  # what the distance of two cells of a view's partition counts, in units of 8-bit Lab
_MOST = 1 << 16  # labels are stored as uint16
_HEAD = struct.Struct("<III")
_LARGEST = 1 << 22  # bytes of an entry unpacked: a damaged one must not fill the memory


class SuperpixelTree(NamedTuple):
    """A picture's fine superpixels and the order in which they merge."""

    labels: NDArray[np.uint16]
    """(H, W), in [0, n): in the order of the tree's leaves, so that whatever has merged is a range."""
    merge_order: NDArray[np.uint16]
    """(n - 1,): after how many merges label i and label i + 1 are one; all different."""


def partition(image: Image.Image, superpixels: Superpixels) -> SuperpixelTree:
    """The fine superpixels of an RGB picture, about :data:`FINER` times as many as the backend gives a view.

    The picture is cut into a grid of tiles as square as can be, and each is partitioned by itself: so any
    backend gives finer superpixels without knowing of it.

    Raises:
        ConfigError: if there are more than 65536.
    """
    width, height = image.size
    if width * height > PIXELS:
        shrink = (PIXELS / (width * height)) ** 0.5
        size = max(1, int(width * shrink)), max(1, int(height * shrink))
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    labels = _tiles(pixels, superpixels)
    count = int(labels.max()) + 1
    if count > _MOST:
        raise ConfigError(
            f"{superpixels!r} makes {count} superpixels of one picture, but the cache takes up to {_MOST};"
            " ask for fewer or larger ones, or leave --superpixel-cache out"
        )
    order, merge_order = _tree(pixels, labels, count)
    rank = np.empty(count, np.uint16)
    rank[order] = np.arange(count)
    return SuperpixelTree(rank[labels], np.asarray(merge_order, np.uint16))


def crop(fine: SuperpixelTree, box: Box, flipped: bool, size: int, most: int) -> Tensor:
    """The superpixels of a view: int32 (size, size), labels from 0 without gaps, at most ``most``.

    Args:
        fine: of the whole picture.
        box: what the view shows; each of its pixels takes the label at its centre.
        flipped: whether left and right are exchanged.
        size: side of the view in pixels.
        most: how many superpixels it may have; it has as many, unless it shows fewer fine ones.
    """
    height, width = fine.labels.shape
    y, x = _centres(box[1], box[3], size, height), _centres(box[0], box[2], size, width)
    seen = fine.labels[y[:, None], x[::-1] if flipped else x]
    present = np.zeros(len(fine.merge_order) + 1, bool)
    present[seen] = True
    kept = np.flatnonzero(present)
    table = np.zeros(len(present), np.int32)
    table[kept[1:]] = np.cumsum(_apart(fine.merge_order, kept, most))
    return torch.from_numpy(table[seen])


def _centres(low: float, high: float, size: int, pixels: int) -> NDArray[np.int64]:
    at = (low + (np.arange(size) + 0.5) / size * (high - low)) * pixels
    return np.clip(at.astype(np.int64), 0, pixels - 1)


def _apart(merge_order: NDArray[np.uint16], kept: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """Whether each of the ``kept`` labels but the first stays apart from the one before it."""
    if len(kept) <= most:
        return np.ones(len(kept) - 1, bool)
    # two leaves are one as soon as all that lie between them are
    when = np.maximum.reduceat(merge_order[: kept[-1]], kept[:-1])
    apart = np.zeros(len(when), bool)
    apart[np.argsort(when)[len(when) - (most - 1) :]] = True
    return apart


def pack(fine: SuperpixelTree) -> bytes:
    """As bytes, compressed without loss."""
    height, width = fine.labels.shape
    change = fine.labels.copy()
    change[1:] -= fine.labels[:-1]  # mostly zeros
    parts = (np.ascontiguousarray(part, "<u2").tobytes() for part in (fine.merge_order, change))
    return zlib.compress(b"".join([_HEAD.pack(height, width, len(fine.merge_order)), *parts]))


def unpack(packed: bytes) -> SuperpixelTree:
    """What :func:`pack` was given.

    Raises:
        ValueError: if the bytes are no whole entry.
    """
    opened = zlib.decompressobj()
    try:
        plain = opened.decompress(packed, _LARGEST)
        height, width, count = _HEAD.unpack_from(plain)
        numbers = np.frombuffer(plain, "<u2", offset=_HEAD.size)
    except (zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"these {len(packed)} bytes hold no superpixels: {error}") from error
    if not opened.eof or len(numbers) != count + height * width or not height * width:
        raise ValueError(
            f"{len(packed)} bytes hold {len(numbers)} numbers, expected {height} x {width} labels and {count}"
            " merges"
        )
    labels = np.add.accumulate(numbers[count:].reshape(height, width), axis=0, dtype=np.uint16)
    return SuperpixelTree(labels, numbers[:count].astype(np.uint16))


def _tiles(pixels: NDArray[np.uint8], superpixels: Superpixels) -> NDArray[np.int64]:
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


def _tree(pixels: NDArray[np.uint8], labels: NDArray[np.int64], count: int) -> tuple[list[int], list[int]]:
    """The leaves in the tree's order, and after how many merges each has joined the next."""
    mass, place = _moments(pixels, labels, count)
    near: list[set[int]] = [set() for _ in range(count)]
    heap = []
    for one, other in _neighbours(labels, count):
        near[one].add(other)
        near[other].add(one)
        heap.append((_ward(mass, place, one, other), one, other))
    heapify(heap)
    leaves, merge_order = [[leaf] for leaf in range(count)], [list[int]() for _ in range(count)]
    merges = 0
    while heap:
        _, one, other = heappop(heap)
        if not (leaves[one] and leaves[other]):
            continue  # one of them has merged since
        both = len(leaves)
        leaves.append(leaves[one] + leaves[other])
        merge_order.append([*merge_order[one], merges, *merge_order[other]])
        leaves[one], leaves[other] = [], []
        share = mass[one] / (mass[one] + mass[other])
        place.append([share * a + (1 - share) * b for a, b in zip(place[one], place[other], strict=True)])
        mass.append(mass[one] + mass[other])
        near.append((near[one] | near[other]) - {one, other})
        for third in near[both]:
            near[third] -= {one, other}
            near[third].add(both)
            heappush(heap, (_ward(mass, place, third, both), third, both))
        merges += 1
    return leaves[-1], merge_order[-1]


def _ward(mass: list[float], place: list[list[float]], one: int, other: int) -> float:
    """By how much the sum of squared distances from the means grows if two clusters become one."""
    return mass[one] * mass[other] / (mass[one] + mass[other]) * dist(place[one], place[other]) ** 2


def _moments(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], count: int
) -> tuple[list[float], list[list[float]]]:
    """Pixels of each superpixel, and the means of its L, a, b, y and x, the last two scaled to count."""
    height, width = labels.shape
    flat = labels.ravel()
    mass = np.bincount(flat, minlength=count).astype(np.float64)
    scale = _COMPACT / (height * width * FINER / count) ** 0.5
    colour = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)).reshape(-1, 3)
    y, x = np.repeat(np.arange(height) * scale, width), np.tile(np.arange(width) * scale, height)
    sums = [np.bincount(flat, values, count) for values in (*colour.T, y, x)]
    return mass.tolist(), (np.stack(sums, 1) / mass[:, None]).tolist()


def _neighbours(labels: NDArray[np.int64], count: int) -> Iterator[tuple[int, int]]:
    """Each pair of labels, the smaller first, that share an edge of a pixel."""
    pairs = [(labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])]
    codes = [(np.minimum(a, b) * count + np.maximum(a, b))[a != b] for a, b in pairs]
    for code in np.unique(np.concatenate(codes)).tolist():
        yield divmod(code, count)
