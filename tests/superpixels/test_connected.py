"""Labels after the repair: connected, all kept, and changed only where they were apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.connected_parts import connected_parts
from castssl.superpixels.connected import connected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[0, 0, 1, 1]], [[0, 0, 1, 1]]),
        ([[0, 0, 1, 0, 1, 1]], [[0, 0, 0, 1, 1, 1]]),
        ([[0, 0, 0], [0, 1, 2], [1, 2, 2], [1, 1, 2]], [[0, 0, 0], [0, 2, 2], [1, 2, 2], [1, 1, 2]]),
        # The middle of a part waits for its ends.
        (
            [[5, 5, 5, 5, 5], [5, 0, 0, 0, 5], [5, 5, 5, 5, 5], [0, 0, 0, 0, 5]],
            [[5, 5, 5, 5, 5], [5, 5, 5, 5, 5], [5, 5, 5, 5, 5], [0, 0, 0, 0, 5]],
        ),
    ],
)
def test_small_maps(labels: list[list[int]], expected: list[list[int]]) -> None:
    assert connected(np.array(labels, np.int32)).tolist() == expected


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.integers(0, 10_000))
def test_any_map(height: int, width: int, count: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, count, (height, width), dtype=np.int32)
    before = labels.copy()
    joined = connected(labels)
    assert joined.dtype == np.int32
    assert np.array_equal(np.unique(joined), np.unique(labels))
    assert not connected_parts(joined).minor[1:].any()
    numbers, minor = connected_parts(labels)
    kept = minor[numbers] == 0
    assert np.array_equal(joined[kept], labels[kept])
    assert np.array_equal(connected(joined), joined)
    assert np.array_equal(labels, before)
