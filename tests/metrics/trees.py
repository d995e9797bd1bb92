"""Label trees, paths and naive counting for the tests of metrics: loops over Python numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from castssl.labels import LabelTree

BIRDS = LabelTree(sizes=(2, 3, 6), parents=((0, 0, 1), (0, 0, 1, 1, 2, 2)))
"""Classes 0 and 1 of the coarsest level have four and two finest ones."""
Path = Sequence[int]


class Case(NamedTuple):
    """Predictions for some images."""

    tree: LabelTree
    predicted: Tensor
    target: Tensor
    valid: Tensor


@st.composite
def trees(draw: st.DrawFn) -> LabelTree:
    """Any tree of one to four levels."""
    sizes = [draw(st.integers(1, 3))]
    parents: list[tuple[int, ...]] = []
    for _ in range(draw(st.integers(0, 3))):
        own = list(range(sizes[-1]))  # a child for each
        more = draw(st.lists(st.integers(0, sizes[-1] - 1), max_size=3))
        parents.append(tuple(draw(st.permutations(own + more))))
        sizes.append(len(parents[-1]))
    return LabelTree(sizes=tuple(sizes), parents=tuple(parents))


@st.composite
def cases(draw: st.DrawFn, *, partial: bool = True) -> Case:
    """Right, wrong and impossible predictions for true paths, some of them cut short, some rows padding."""
    tree = draw(trees())
    paths = tree.paths().tolist()
    rows = draw(st.integers(1, 8))
    target = [draw(st.sampled_from(paths)) for _ in range(rows)]
    free = st.tuples(*(st.integers(0, size - 1) for size in tree.sizes)).map(list)
    predicted = [draw(st.one_of(st.just(row), st.sampled_from(paths), free)) for row in target]
    if partial:
        depths = [draw(st.integers(0, tree.levels)) for _ in range(rows)]
        target = [
            row[:depth] + [-1] * (tree.levels - depth) for row, depth in zip(target, depths, strict=True)
        ]
    valid = torch.tensor(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    return Case(tree, torch.tensor(predicted), torch.tensor(target), valid)


def real(case: Case) -> list[tuple[Path, Path]]:
    """Prediction and target of each real row."""
    rows = zip(case.predicted.tolist(), case.target.tolist(), case.valid.tolist(), strict=True)
    return [(predicted, target) for predicted, target, valid in rows if valid]


def share(marks: Sequence[float]) -> float:
    """The mean; not a number of nothing."""
    return sum(marks) / len(marks) if marks else float("nan")


def accuracies(case: Case) -> list[float]:
    """Of each level, over the rows whose label is known there."""
    return [
        share([p[level] == t[level] for p, t in real(case) if t[level] >= 0])
        for level in range(case.tree.levels)
    ]


def full_path(case: Case) -> float:
    """Over the rows whose path is known."""
    return share([p == t for p, t in real(case) if min(t) >= 0])


def inconsistency(case: Case) -> float:
    """Membership in the set of paths, over the rows whose path is known."""
    paths = {tuple(path) for path in case.tree.paths().tolist()}
    return share([tuple(p) not in paths for p, t in real(case) if min(t) >= 0])


def ancestors(tree: LabelTree, fine: int) -> list[tuple[int, int]]:
    """Level and class from a finest class up to the coarsest."""
    found = [(tree.levels - 1, fine)]
    for level in range(tree.levels - 1, 0, -1):
        found.append((level - 1, tree.parents[level - 1][found[-1][1]]))
    return found


def height(tree: LabelTree, one: int, other: int) -> int:
    """Steps up from ``one`` until ``other`` lies below; the root is one above the coarsest."""
    others = ancestors(tree, other)
    return next((up for up, node in enumerate(ancestors(tree, one)) if node in others), tree.levels)


def severity(case: Case) -> float:
    """The mean height of the mistakes, over the rows whose finest label is known."""
    pairs = [(p[-1], t[-1]) for p, t in real(case) if t[-1] >= 0]
    return share([height(case.tree, p, t) for p, t in pairs if p != t])
