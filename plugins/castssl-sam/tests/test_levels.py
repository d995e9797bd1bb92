"""Masks by hand in every order, and the parts and objects that they make."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from castssl_sam.levels import parts_and_objects

# One row of six pixels for each mask; letters of the results stand for segments.
CASES = {
    "disjoint": (["##....", "...###"], "aa.bbb", "aa.bbb"),
    "nested": (["######", ".####.", "..#..."], "abcbba", "aaaaaa"),
    "nested in a part of the image": ([".####.", "..##.."], ".abba.", ".aaaa."),
    "overlapping": (["####..", "..###."], "aabbb.", "aaaab."),
    "overlapping chain": (["####..", "...##.", "....##"], "aaabcc", "aaaabc"),
    "covered by two smaller ones": (["####..", "##....", "..##.."], "aabb..", "aaaa.."),
    "equal": (["..##..", "..##.."], "..aa..", "..aa.."),
    "of one size": (["###...", ".###.."], "abbb..", "aaab.."),
    "one empty": (["......", "..##.."], "..aa..", "..aa.."),
    "all empty": (["......", "......"], "......", "......"),
    "the whole image": (["######"], "aaaaaa", "aaaaaa"),
    "an object in three parts": (["#####.", "#.....", "..#...", "....#."], "abcbd.", "aaaaa."),
    "none": ([], "......", "......"),
}


def same(level: NDArray[np.int32], letters: str) -> bool:
    """True if the ids and the letters are the same partition of a row."""
    pairs = set(zip(level[0].tolist(), letters, strict=True))
    return len(pairs) == len(set(letters)) == int(level.max()) + 1


@pytest.mark.parametrize(("rows", "parts", "objects"), CASES.values(), ids=CASES)
def test_every_order_gives_the_answer(rows: list[str], parts: str, objects: str) -> None:
    for order in permutations(rows):
        masks = np.array([[letter == "#" for letter in row] for row in order], np.bool_).reshape(-1, 1, 6)
        maps = parts_and_objects(masks)
        assert maps.dtype == np.int32
        assert maps.shape == (2, 1, 6)
        assert same(maps[0], parts), maps[0]
        assert same(maps[1], objects), maps[1]


@pytest.mark.parametrize("masks", [np.zeros((2, 3, 4)), np.zeros((3, 4), np.bool_)])
def test_other_arrays_are_refused(masks: NDArray[np.bool_]) -> None:
    with pytest.raises(ValueError, match=r"bool of shape \(N, H, W\), got"):
        parts_and_objects(masks)
