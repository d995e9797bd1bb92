"""Connected parts against a walk from pixel to pixel."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from castssl.connected_parts import connected_parts


def walked(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """The part of each pixel, from 1, in the order of their first pixels."""
    parts = np.zeros(labels.shape, np.int64)
    for start in np.ndindex(*labels.shape):
        ahead = [] if parts[start] else [start]
        number = parts.max() + 1
        while ahead:
            y, x = ahead.pop()
            inside = 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]
            if inside and not parts[y, x] and labels[y, x] == labels[start]:
                parts[y, x] = number
                ahead += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return parts


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 10_000))
def test_parts_are_those_of_a_walk(height: int, width: int, count: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, count, (height, width), dtype=np.int32) * 3
    numbers, minor = connected_parts(labels)
    pairs = set(zip(numbers.ravel().tolist(), walked(labels).ravel().tolist(), strict=True))
    assert numbers.min() == 1
    assert len(pairs) == numbers.max() == walked(labels).max() == len(minor) - 1
    sizes = Counter(numbers.ravel().tolist())
    for label in np.unique(labels):
        own = np.unique(numbers[labels == label]).tolist()
        [major] = [number for number in own if not minor[number]]
        assert sizes[major] == max(sizes[number] for number in own)
