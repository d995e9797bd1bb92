"""Which images are labeled at coarse levels only: the drawing rule of Free-Grained's synthetic data sets.

Free-Grained Hierarchical Visual Recognition (CVPR 2026), https://arxiv.org/abs/2510.14737.  There the images
of each class are shuffled; here they are ordered by a hash of their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from castssl.datasets.images import Images
from castssl.errors import DataError

CLOSE = 1e-9
"""What rounding may take from a number of images: 10 times (1 - 0.9) is below 1."""


def read_shares(share: float | Sequence[float], levels: int) -> tuple[float, ...]:
    """The share of the images whose labels end at each level, coarse to fine.

    Args:
        share: these shares; or a number, the share whose finest label is hidden, of which each coarser level
            gets an equal part.
        levels: of the label paths, two or more.

    Raises:
        DataError: unless there is one in [0, 1] for each level, and their sum is 1.
    """
    if isinstance(share, Sequence):
        shares = tuple(share)
    else:
        shares = (*[share / (levels - 1)] * (levels - 1), 1 - share)
    if len(shares) != levels or not all(0 <= each <= 1 for each in shares) or abs(sum(shares) - 1) > 1e-6:
        raise DataError(
            f"share of hidden labels: got {share}, expected a share in [0, 1], or the share of the images"
            f" whose labels end at each of the {levels} levels, coarse to fine, with the sum 1"
        )
    return shares


def draw_depths(
    names: Sequence[str], classes: NDArray[np.int64], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """How many levels of each image's label stay known.

    Of the n images of each class, in the order of a hash of their names, the first ``int(n * shares[-1])``
    keep all levels, the next ``int(n * shares[-2])`` all but the finest, and so on; the rest keeps the
    coarsest.  The order of the images has no influence, unless some of a class have the same name.

    Args:
        names: of the n images.
        classes: int64 (n,), from 0: the finest class of each.
        shares: of the images whose labels end at each level, coarse to fine.
        seed: another one gives another order.

    Returns:
        Int64 (n,), from 1 to the number of levels.
    """
    words = np.array([_hash(name, seed) for name in names], dtype=np.uint64)
    order = np.lexsort((words, classes))
    counts = np.bincount(classes)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    depths, end = np.ones(len(order), dtype=np.int64), np.zeros_like(counts)
    for depth in range(len(shares), 1, -1):
        begin, end = end, end + np.floor(counts * shares[depth - 1] + CLOSE).astype(np.int64)
        depths[(begin[classes] <= place) & (place < end[classes])] = depth
    return depths


def hide_below(targets: Tensor, depths: Tensor | NDArray[np.int64]) -> Tensor:
    """Label paths int64 (n, L) of which the first ``depths`` levels, int64 (n,), stay; the others are -1."""
    hidden = torch.arange(targets.shape[1]) >= torch.as_tensor(depths).unsqueeze(1)
    return targets.masked_fill(hidden, -1)


def hide_fine(images: Images, share: float | Sequence[float], *, seed: int = 0) -> Images:
    """The same images, of which some are labeled at coarse levels only, as in free-grained training.

    Labels that are hidden are -1; level 0 stays known.  The images are drawn within each class, see
    :func:`draw_depths`.  The draw depends on ``seed``, the classes and the names of the images, and not on
    their order.

    Args:
        images: with label paths of two levels or more.
        share: of the images of each class whose finest label is hidden, in [0, 1]; each coarser level
            gets an equal part of them.  Or the share of the images whose labels end at each level, coarse
            to fine: (0.5, 0.4, 0.1) for CUB-F.
        seed: non-negative; another one chooses other images.

    Raises:
        DataError: if the shares or the seed are out of range, or there are fewer than two levels.
    """
    levels = images.tree.levels
    if levels < 2 or not images.tree.exclusive:
        raise DataError(f"fine labels cannot be hidden: paths are of {levels} levels, expected two or more")
    if seed < 0:
        raise DataError(f"seed of the hidden labels: got {seed}, expected a whole number from 0")
    shares, classes = read_shares(share, levels), images.label_paths()[1].numpy()
    depths = draw_depths([images.name(index) for index in range(len(images))], classes, shares, seed)
    return replace(images, targets=hide_below(images.targets, depths))


def _hash(name: str, seed: int) -> int:
    data = f"{seed}/{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
