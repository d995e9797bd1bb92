from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.data.folders import Files
from castssl.data.listing import Listing, Subset, listing, narrow, read_subset
from castssl.errors import DataError
from castssl.types import LabelTree

TREE = LabelTree((2, 3), ((0, 0, 1),), (("a", "b"), ("x", "y", "z")))


def _listed(targets: list[list[int]]) -> Listing:
    return listing(Files(Path("any"), [f"{i}.png" for i in range(len(targets))]), torch.tensor(targets), TREE)


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
    found = narrow(_listed([[0, 1], [1, 2], [0, 0], [0, -1], [1, 2]]), Subset("some", frozenset({"z", "y"})))
    assert found.tree == LabelTree((2, 2), ((0, 1),), (("a", "b"), ("y", "z")))
    assert found.rows.tolist() == [0, 1, 4]
    assert found.targets is not None
    assert found.targets.tolist() == [[0, 0], [1, 1], [1, 1]]
    with pytest.raises(DataError, match=r"some names 2 classes, 1 of which the data lacks: a;"):
        narrow(_listed([[0, 0]]), Subset("some", frozenset({"x", "a"})))
    with pytest.raises(DataError, match="no image of this split is in subset some"):
        narrow(_listed([[0, 0], [0, -1]]), Subset("some", frozenset({"z"})))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=1), st.sets(st.sampled_from("xyz"), min_size=1).map(frozenset[str])
)
def test_narrow_keeps_every_name(fine: list[int], wanted: Iterable[str]) -> None:
    whole = _listed(TREE.paths()[torch.tensor(fine)].tolist())
    kept = [row for row, label in enumerate(fine) if TREE.names[1][label] in wanted]
    if not kept:
        return
    found = narrow(whole, Subset("some", frozenset(wanted)))
    assert found.targets is not None
    assert found.rows.tolist() == kept
    for row, path in zip(kept, found.targets.tolist(), strict=True):
        named = tuple(found.tree.names[level][label] for level, label in enumerate(path))
        assert named == (TREE.names[0][TREE.parents[0][fine[row]]], TREE.names[1][fine[row]])
