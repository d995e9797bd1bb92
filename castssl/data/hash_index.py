"""A pseudorandom order that depends on the seed and each number alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hash_index(numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A pseudorandom 64-bit word for each number, a function of it and the seed alone.

    The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014),
    a bijection: different numbers give different words.

    Args:
        numbers: int64 (n,).
        seed: in [0, 2**64).
    """
    word = numbers.astype(np.uint64) + np.uint64(seed)
    word = (word + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = word ^ (word >> np.uint64(31))
    return mixed
