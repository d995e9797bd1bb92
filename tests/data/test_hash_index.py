"""The words of a known generator."""

from __future__ import annotations

import numpy as np

from castssl.data.hash_index import hash_index


def test_scatter_is_a_known_generator_and_loses_nothing() -> None:
    # SplitMix64's published first output for state 0, which it raises by the constant first.
    assert int(hash_index(np.array([0]), 0)[0]) == 0xE220A8397B1DCDAF
    words = hash_index(np.arange(10_000), 2**64 - 5)
    assert words.dtype == np.uint64
    assert len(np.unique(words)) == 10_000
    assert np.array_equal(hash_index(np.array([7, 3]), 9), hash_index(np.arange(8), 9)[[7, 3]])
    bits = (words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.allclose(bits.mean(0), 0.5, atol=0.03)
