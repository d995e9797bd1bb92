"""Superpixels merged without learning: what a learned hierarchy of segments is compared with.

Ward's clustering (Ward 1963, https://doi.org/10.1080/01621459.1963.10500845) of the superpixels' mean colors,
as scikit-learn computes it: one tree of merges, cut at each number of segments, so that the segments are
nested.

Every superpixel counts as one point, whatever its size.  Ward's criterion over *pixels* would multiply the
squared distance of two clusters by m n / (m + n) of their numbers of pixels, not of superpixels.
scikit-learn takes no weights, and superpixels are made to be about equal in size.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COLOR, PLACE, NEIGHBORS, RANDOM = KINDS = ("color", "color+place", "neighbors", "random")
"""What :func:`merge` merges by."""
Merges = list[tuple[int, int]]
"""A tree of merges of n clusters: merge number i joins two clusters to one that is called n + i."""


def merge(image: Tensor, segments: Tensor, sizes: Sequence[int], *, by: str = COLOR, seed: int = 0) -> Tensor:
    """Merge the superpixels of one image to each number of segments, without learning.

    ``color``: Ward's clustering of mean colors.  Segments may lie in several places.
    ``color+place``: of mean colors and mean positions; over the image's pixels both have the same variance.
    ``neighbors``: of mean colors, where only clusters that touch merge.
    ``random``: each step draws a region and one of its neighbors, both uniformly, and merges them.  Drawing
    regions, not borders, keeps a region from growing merely because it is already large.

    Args:
        image: (C, H, W) on any device.  uint8 with three channels is RGB and compared in CIELAB; other images
            are compared by their values.
        segments: integer (H, W), the superpixels, with or without gaps; a negative label belongs to none.
        sizes: how many segments to leave at each level, fine to coarse, 1 or more.
        by: one of :data:`KINDS`.
        seed: of ``random``; equal seeds give equal merges.

    Returns:
        int32 (L, H, W) on the device of ``segments``: labels from 0 without gaps, -1 where ``segments`` is
        negative.  A level has fewer segments than requested if there are fewer superpixels.  Unlabeled pixels
        may part an image into islands: ``random`` leaves at least one segment on each, and ``neighbors``
        takes islands to touch where their colors are nearest.

    Raises:
        ValueError: if a shape, a size or ``by`` is not as above.
    """
    shape = tuple(segments.shape)
    if len(shape) != 2 or image.dim() != 3 or tuple(image.shape[1:]) != shape:
        raise ValueError(
            f"merge: expected an image (C, H, W) and superpixels (H, W) of one size, got {tuple(image.shape)}"
            f" and {shape}; call it once for each image of a batch"
        )
    if by not in KINDS or not all(size >= 1 for size in sizes):
        raise ValueError(
            f"merge: expected by in {KINDS} and sizes of 1 or more, got {by!r} and {list(sizes)}"
        )
    kept, dense = np.unique(segments.cpu().numpy().clip(min=-1), return_inverse=True)
    dense = dense.reshape(shape) - int(len(kept) > 0 and kept[0] < 0)
    count = int(dense.max(initial=-1)) + 1
    if count < 2:
        merges: Merges = []
    elif by == RANDOM:
        merges = _at_random(neighbors(dense), count, random.Random(seed))
    else:
        features = mean_colors(image.cpu().numpy(), dense, count, place=by == PLACE)
        merges = _ward(features, neighbors(dense) if by == NEIGHBORS else None)
    labels = np.empty((len(sizes), *shape), np.int32)
    for level, size in zip(labels, sizes, strict=True):
        level[:] = np.append(cut(merges, count, size), -1)[dense]
    return torch.from_numpy(labels).to(segments.device)


def neighbors(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """The pairs of labels that share an edge of a pixel.

    Args:
        labels: (H, W); a negative label touches nothing.

    Returns:
        (E, 2), each pair once, the smaller label first, in increasing order.
    """
    count = int(labels.max(initial=-1)) + 1
    codes = [np.empty(0, np.int64)]
    for a, b in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        low, high = np.minimum(a, b).astype(np.int64), np.maximum(a, b)
        codes.append((low * count + high)[(low != high) & (low >= 0)])
    # One number a pair, because numpy.unique over rows is far slower.
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), max(count, 1)), 1)


def mean_colors(
    image: NDArray[np.generic], dense: NDArray[np.integer], count: int, *, place: bool = False
) -> NDArray[np.float64]:
    """The mean color of each superpixel, with its mean position if ``place``.

    Args:
        image: (C, H, W), compared as :func:`merge` does.
        dense: integer (H, W), 0 to ``count`` - 1; a negative label belongs to none.
        count: n; a superpixel without pixels has zeros.
        place: append the mean position, at the scale of the colors.

    Returns:
        float64 (n, D); CIELAB for RGB.
    """
    channels = image.astype(np.float64).reshape(len(image), -1)
    if image.dtype == np.uint8 and len(image) == 3:
        rgb = np.ascontiguousarray(image.transpose(1, 2, 0), np.float32) / np.float32(255)
        channels = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), np.float64).reshape(-1, 3).T
    if place:
        positions = np.indices(dense.shape, np.float64).reshape(2, -1)
        channels = np.concatenate([_scaled(channels), _scaled(positions)])
    labels = dense.ravel()
    inside = labels >= 0
    labels, channels = labels[inside], channels[:, inside]
    sums = np.stack([np.bincount(labels, values, count) for values in channels], 1)
    return np.asarray(sums / np.maximum(np.bincount(labels, minlength=count), 1)[:, None])


def _scaled(channels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Channels (D, P) with a variance of 1 in sum; zeros where they have none."""
    centered = channels - channels.mean(1, keepdims=True)
    return np.asarray(centered / max(float(np.sqrt(centered.var(1).sum())), 1e-12))


def _ward(features: NDArray[np.float64], pairs: NDArray[np.int64] | None) -> Merges:
    """Ward's tree of points (n, D), n >= 2; with ``pairs`` only clusters that touch merge."""
    from sklearn.cluster import ward_tree

    graph = None
    if pairs is not None:
        graph = np.zeros((len(features),) * 2, bool)
        graph[pairs[:, 0], pairs[:, 1]] = True
    with warnings.catch_warnings():
        # Of islands: it connects them itself.
        warnings.filterwarnings("ignore", message="the number of connected components")
        children = ward_tree(features, connectivity=graph)[0]
    return [(one, other) for one, other in children.tolist()]


def _at_random(pairs: NDArray[np.int64], count: int, rng: random.Random) -> Merges:
    """Merges of neighbors at random until none touch."""
    touching: list[set[int]] = [set() for _ in range(count)]
    for one, other in pairs.tolist():
        touching[one].add(other)
        touching[other].add(one)
    alive = [region for region in range(count) if touching[region]]
    names, merges = list(range(count)), Merges()
    while alive:
        gone = alive.pop(rng.randrange(len(alive)))
        kept = rng.choice(sorted(touching[gone]))
        merges.append((names[gone], names[kept]))
        names[kept] = count + len(merges) - 1
        for other in touching[gone] - {kept}:
            touching[other] = touching[other] - {gone} | {kept}
            touching[kept].add(other)
        touching[kept].discard(gone)
        if not touching[kept]:
            alive.remove(kept)
    return merges


def cut(merges: Merges, count: int, size: int) -> NDArray[np.int64]:
    """Cut a tree of merges.

    Args:
        merges: of ``count`` superpixels, as many as there are.
        count: n.
        size: how many segments to leave, 1 or more.

    Returns:
        int64 (n,), the segment of each superpixel, numbered in order of appearance.
    """
    done = merges[: max(count - size, 0)]
    root = list(range(count + len(done)))
    for i in reversed(range(len(done))):
        for child in done[i]:
            root[child] = root[count + i]
    order = {cluster: label for label, cluster in enumerate(dict.fromkeys(root[:count]))}
    return np.array([order[cluster] for cluster in root[:count]], np.int64)
