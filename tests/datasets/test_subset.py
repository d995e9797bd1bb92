from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.datasets.subset import Subset, narrow, read_subset
from castssl.errors import DataError
from castssl.labels import LabelTree

TREE = LabelTree((2, 3), ((0, 0, 1),), (("a", "b"), ("x", "y", "z")))


def _narrowed(targets: list[list[int]], *classes: str) -> tuple[list[int], list[list[int]], LabelTree]:
    rows, kept, tree = narrow(torch.tensor(targets), TREE, Subset("some", frozenset(classes)))
    return rows.tolist(), kept.tolist(), tree


def test_imagenet100_is_shipped() -> None:
    classes = read_subset("imagenet100").classes
    assert len(classes) == 100
    assert all(re.fullmatch(r"n\d{8}", name) for name in classes)
    assert {"n02869837", "n02090622"} <= classes


def test_subsets_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no subset 'imagenet10'.*imagenet100"):
        read_subset("imagenet10")
    (tmp_path / "e.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="names no class"):
        read_subset(str(tmp_path / "e.txt"))


def test_narrow_leaves_out_what_has_no_class_in_the_subset() -> None:
    rows, targets, tree = _narrowed([[0, 1], [1, 2], [0, 0], [0, -1], [1, 2]], "z", "y")
    assert tree == LabelTree((2, 2), ((0, 1),), (("a", "b"), ("y", "z")))
    assert rows == [0, 1, 4]
    assert targets == [[0, 0], [1, 1], [1, 1]]
    with pytest.raises(DataError, match=r"some names 2 classes, 1 of which the data lacks: a;"):
        _narrowed([[0, 0]], "x", "a")
    with pytest.raises(DataError, match="no image of this split is in subset some"):
        _narrowed([[0, 0], [0, -1]], "z")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1), st.frozensets(st.sampled_from("xyz"), min_size=1))
def test_narrow_keeps_every_name(fine: list[int], wanted: Iterable[str]) -> None:
    kept = [row for row, label in enumerate(fine) if TREE.names[1][label] in wanted]
    if not kept:
        return
    rows, targets, tree = _narrowed(TREE.paths()[torch.tensor(fine)].tolist(), *wanted)
    assert rows == kept
    for row, path in zip(kept, targets, strict=True):
        named = tuple(tree.names[level][label] for level, label in enumerate(path))
        assert named == (TREE.names[0][TREE.parents[0][fine[row]]], TREE.names[1][fine[row]])
