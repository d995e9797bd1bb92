"""Nouns that have rules: label trees and hierarchies."""

from __future__ import annotations

import pytest
import torch

from castssl.errors import DataError
from castssl.types import Hierarchy, LabelTree, Tokens


def test_a_tree_that_holds() -> None:
    tree = LabelTree((2, 3), ((0, 0, 1),), (("a", "b"), ("x", "y", "z")))
    assert tree.levels == 2
    assert LabelTree.none().levels == 0
    assert LabelTree.flat(["cat", "dog"]).sizes == (2,)


@pytest.mark.parametrize(
    ("sizes", "parents", "names", "message"),
    [
        ((2, 3), (), (), "needs 1 parent tables, got 0"),
        ((2, 3), ((0, 1),), (), "3 classes but 2 parents"),
        ((2, 3), ((0, 1, 2),), (), r"parents out of range \[2\]"),
        ((2, 3), ((0, 0, 0),), (), r"without a child \[1\]"),
        ((2,), (), (("a",),), "class names"),
    ],
)
def test_a_tree_that_does_not(
    sizes: tuple[int, ...],
    parents: tuple[tuple[int, ...], ...],
    names: tuple[tuple[str, ...], ...],
    message: str,
) -> None:
    with pytest.raises(DataError, match=message):
        LabelTree(sizes, parents, names)


def tokens(mass: list[float]) -> Tokens:
    return Tokens(torch.zeros(1, len(mass), 2), torch.zeros(1, 1, 2), torch.tensor([mass]))


def test_labels_follow_the_largest_share_and_mark_what_has_no_token() -> None:
    first = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.0, 0.0], [0.6, 0.4]]])
    second = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    segments = torch.tensor([[[0, 1], [2, 3]]], dtype=torch.int32)
    hierarchy = Hierarchy(segments, (tokens([1, 1, 0, 1]), tokens([2, 1]), tokens([1, 2])), (first, second))
    assert hierarchy.labels(0).tolist() == [[[0, 1], [-1, 3]]]
    assert hierarchy.labels(1).tolist() == [[[0, 1], [-1, 0]]]
    assert hierarchy.labels(2).tolist() == [[[1, 0], [-1, 1]]]
    assert torch.equal(hierarchy.labels(-1), hierarchy.labels(2))
