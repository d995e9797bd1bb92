"""Nouns that have rules: label trees and hierarchies."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.types import Hierarchy, Tokens


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
        ((9, 2), ((0, 7),), (), r"without a child \[1, 2, 3, 4, 5\]; expected each of 0\.\.8"),
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


DEEP = LabelTree((2, 3, 4), ((0, 0, 1), (1, 0, 2, 1)))


def test_paths_of_the_finest_classes() -> None:
    assert DEEP.paths().tolist() == [[0, 1, 0], [0, 0, 1], [1, 2, 2], [0, 1, 3]]
    assert DEEP.paths().dtype == torch.int64
    assert LabelTree.flat(["cat", "dog"]).paths().tolist() == [[0], [1]]
    assert LabelTree.none().paths().shape == (0, 0)
    with pytest.raises(DataError, match="2 levels with 0 parent tables have no paths"):
        LabelTree((2, 3), exclusive=False).paths()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-2, 4)] * 3), max_size=30))
def test_valid_paths_are_those_that_agree_with_a_class(paths: list[tuple[int, ...]]) -> None:
    every = DEEP.paths().tolist()

    def naive(path: tuple[int, ...]) -> bool:
        # What is known below a level must lie on a path; above it nothing may contradict.
        return any(all(a in (-1, b) for a, b in zip(path, own, strict=True)) for own in every)

    found = DEEP.valid(torch.tensor(paths, dtype=torch.int64).view(-1, 3))
    assert found.dtype == torch.bool
    assert found.tolist() == [naive(path) for path in paths]


def test_valid_refuses_other_shapes() -> None:
    with pytest.raises(DataError, match=r"\(4, 2\), expected \(B, 3\)"):
        DEEP.valid(torch.zeros(4, 2, dtype=torch.int64))
    assert LabelTree.none().valid(torch.zeros(3, 0, dtype=torch.int64)).tolist() == [True] * 3


def test_a_tree_from_named_paths() -> None:
    paths = [("b", "z", "q"), ("a", "y", "p"), ("a", "x", "o"), ("a", "x", ""), ("b", "", "")]
    tree = LabelTree.from_paths(paths)
    assert tree.names == (("a", "b"), ("x", "y", "z"), ("o", "p", "q"))
    assert tree.parents == ((0, 0, 1), (0, 1, 2))
    met = LabelTree.from_paths(iter(paths), first_seen=True)
    assert met.names == (("b", "a"), ("z", "y", "x"), ("q", "p", "o"))
    assert met.parents == ((0, 1, 1), (0, 1, 2))
    assert LabelTree.from_paths([]) == LabelTree.none()


def test_one_name_below_two_parents_is_two_classes() -> None:
    paths = [("fruit", "orange"), ("color", "orange"), ("color", "red"), ("fruit", "")]
    tree = LabelTree.from_paths(paths)
    assert tree.names == (("color", "fruit"), ("orange", "red", "orange"))
    assert tree.parents == ((0, 0, 1),)
    assert tree.number(paths).tolist() == [[1, 2], [0, 0], [0, 1], [1, -1]]
    assert LabelTree.none().number([(), ()]).shape == (2, 0)
    with pytest.raises(DataError, match="2 classes are not in the label tree: color/blue, fruit/red"):
        tree.number([("fruit", "red"), ("color", "blue"), ("color", "red")])


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([("a", "x", ""), ("b", "x", "y")], "1 classes of level 1 have no class below them, as 'a/x'"),
        ([("a", "x"), ("b", "")], "1 classes of level 0 have no class below them, as 'b'"),
        ([("a", "x"), ("b",)], r"label paths of \[1, 2\] levels"),
    ],
)
def test_named_paths_that_are_no_tree(paths: list[tuple[str, ...]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LabelTree.from_paths(paths)


@pytest.mark.parametrize(
    "tree",
    [DEEP, LabelTree.none(), LabelTree.from_paths([("ä", "x")]), LabelTree((3,), exclusive=False)],
    ids=str,
)
def test_a_tree_survives_json(tree: LabelTree) -> None:
    assert LabelTree.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


def test_a_saved_tree_must_be_whole() -> None:
    saved = DEEP.to_dict()
    del saved["names"]
    with pytest.raises(DataError, match=r"has the fields .*, got "):
        LabelTree.from_dict(saved)


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


def test_the_product_of_assignments_may_choose_another_segment_than_the_chain() -> None:
    first = torch.tensor([[[0.4, 0.3, 0.3], [0.1, 0.8, 0.1]]])
    second = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    segments = torch.tensor([[[0, 1], [-1, 1]]], dtype=torch.int32)
    stages = tokens([1, 1]), tokens([1, 1, 1]), tokens([1, 1])
    hierarchy = Hierarchy(segments, stages, (first, second))
    for stage in (0, 1):
        assert torch.equal(hierarchy.labels(stage, soft=True), hierarchy.labels(stage))
    assert hierarchy.labels(2).tolist() == [[[0, 1], [-1, 1]]]
    assert hierarchy.labels(2, soft=True).tolist() == [[[1, 1], [-1, 1]]]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whole_tokens_that_pass_on_are_shares_of_one(data: st.DataObject) -> None:
    """Of one hierarchy, told by shares alone, and with any of its assigns told by numbers."""
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    present = data.draw(st.lists(st.booleans(), min_size=sizes[0], max_size=sizes[0]))
    stages, dense, mixed = [tokens([float(there) for there in present])], [], []
    for fine, coarse in pairwise(sizes):
        drawn = data.draw(st.lists(st.integers(0, coarse - 1), min_size=fine, max_size=fine))
        whose = [at if there else -1 for at, there in zip(drawn, present, strict=True)]
        share = torch.zeros(1, fine, coarse)
        for token, at in enumerate(whose):
            if at >= 0:
                share[0, token, at] = 1
        dense.append(share)
        mixed.append(torch.tensor([whose]) if data.draw(st.booleans()) else share)
        present = [token in whose for token in range(coarse)]
        stages.append(tokens([float(there) for there in present]))
    segments = torch.arange(-1, sizes[0], dtype=torch.int32)[None, None]
    expected, found = (Hierarchy(segments, tuple(stages), tuple(assigns)) for assigns in (dense, mixed))
    for stage, share in enumerate(dense):
        assert torch.equal(found.shares(stage), share)
        assert torch.equal(found.into(stage), expected.into(stage))
        assert found.into(stage).dtype == torch.int64
    valid = stages[0].mass > 0
    for stage in range(-1, len(sizes)):
        for soft in (False, True):
            parents, wanted = (each.parents(stage, soft=soft) for each in (found, expected))
            assert torch.equal(parents[valid], wanted[valid])
            assert torch.equal(found.labels(stage, soft=soft), expected.labels(stage, soft=soft))
