from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from castssl_slic.fewer import at_most


def test_the_smallest_joins_the_neighbor_of_the_longest_border() -> None:
    labels = np.array([[5, 5, 9, 9], [5, 5, 7, 9], [5, 5, 9, 9]])
    assert np.array_equal(at_most(labels, 3), [[0, 0, 2, 2], [0, 0, 1, 2], [0, 0, 2, 2]])
    assert np.array_equal(at_most(labels, 2), [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]])
    assert np.array_equal(at_most(np.array([[4, 4, 6, 8, 8]]), 2), [[0, 0, 0, 1, 1]]), "of equals the lowest"
    assert not at_most(labels, 1).any()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(0, 999))
def test_segments_are_whole_old_ones(height: int, width: int, count: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 12, (height, width)) * 3
    merged = at_most(labels, count)
    old = np.unique(labels)
    assert np.array_equal(np.unique(merged), np.arange(min(count, len(old))))
    for label in old:
        assert len(np.unique(merged[labels == label])) == 1
