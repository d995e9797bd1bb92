"""What the options of the built-in segmenters have in common."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

SIZES = (32, 16, 8)
"""Segments of each level in the paper's figure 5 and table 2."""


def check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """The numbers of segments, fine to coarse.

    Raises:
        ValueError: unless they are integers of 1 or more that do not increase.
    """
    chosen = tuple(sizes) if isinstance(sizes, tuple | list) else ()
    whole = all(type(size) is int and size >= 1 for size in chosen)
    if not chosen or not whole or any(fine < coarse for fine, coarse in pairwise(chosen)):
        raise ValueError(f"expected sizes fine to coarse, such as sizes=(32,16,8), got {sizes!r}")
    return chosen
