"""A partition with no more segments than a model has tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray


def at_most(labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The partition with its smallest segments merged, until at most ``count`` are left.

    The smallest joins the neighbor with which it shares the longest border; of equals, the one of the
    lowest label.

    Args:
        labels: integer (H, W).
        count: at least 1.

    Returns:
        int64 (H, W), labels 0, 1, ... without gaps, in the order of ``labels``.
    """
    old, flat, counts = np.unique(labels, return_inverse=True, return_counts=True)
    dense = flat.reshape(labels.shape)
    if len(old) <= count:
        return dense
    touching, sizes = _borders(dense, len(old)), dict(enumerate(counts.tolist()))
    into = np.arange(len(old))
    while len(sizes) > count:
        gone = min(sizes, key=lambda label: (sizes[label], label))
        kept = max(touching[gone], key=lambda label: (touching[gone][label], -label))
        sizes[kept] += sizes.pop(gone)
        into[into == gone] = kept
        for other, length in touching[gone].items():
            del touching[other][gone]
            if other != kept:
                touching[other][kept] += length
                touching[kept][other] += length
    left: NDArray[np.int64] = np.unique(into, return_inverse=True)[1]
    return np.asarray(left[dense])


def _borders(dense: NDArray[np.int64], count: int) -> list[Counter[int]]:
    """For each label, how many pairs of neighboring pixels it shares with each other label."""
    pairs: Counter[tuple[int, int]] = Counter()
    for one, other in ((dense[:, 1:], dense[:, :-1]), (dense[1:], dense[:-1])):
        differ = one != other
        pairs.update(zip(one[differ].tolist(), other[differ].tolist(), strict=True))
    touching: list[Counter[int]] = [Counter() for _ in range(count)]
    for (first, second), length in pairs.items():
        touching[first][second] += length
        touching[second][first] += length
    return touching
