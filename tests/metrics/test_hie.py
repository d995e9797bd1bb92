from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.labels import LabelTree
from castssl.metrics.hie import hie
from tests.metrics.trees import BIRDS, trees


def softmax(row: list[float]) -> list[float]:
    top = [math.exp(each - max(row)) for each in row]
    return [each / sum(top) for each in top]


def test_by_hand() -> None:
    tree = LabelTree(sizes=(2, 3), parents=((0, 0, 1),))
    coarse, fine = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.2, 0.3, 0.5]])
    above, below = hie([coarse.log(), fine.log()], tree)
    assert above.exp().flatten().tolist() == pytest.approx([0.75, 0.25])
    # 0.2 x 0.75, 0.3 x 0.75 and 0.5 x 0.25, of 0.5: the parent turns the choice from class 2 to class 1.
    assert below.exp().flatten().tolist() == pytest.approx([0.3, 0.45, 0.25])


@given(trees(), st.integers(0, 99), st.sampled_from([1.0, 60.0]))
@settings(max_examples=20, deadline=None)
def test_as_multiplied_one_by_one(tree: LabelTree, seed: int, sharp: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = [sharp * torch.randn(3, size, generator=generator) for size in tree.sizes]
    found = hie(logits, tree)
    for row in range(3):
        given = [softmax(each[row].double().tolist()) for each in logits]
        assert found[0][row].exp().tolist() == pytest.approx(given[0], abs=1e-5)
        for level in range(1, tree.levels):
            table = tree.parents[level - 1]
            raw = [p * given[level - 1][table[c]] for c, p in enumerate(given[level])]
            expected = [each / sum(raw) for each in raw]
            assert found[level][row].exp().tolist() == pytest.approx(expected, abs=1e-4)


def test_a_product_too_small_for_float32_still_chooses() -> None:
    tree = LabelTree(sizes=(2, 2), parents=((0, 1),))
    (_, fine) = hie([torch.tensor([[0.0, 110.0]]), torch.tensor([[120.0, 0.0]])], tree)
    # e^-110 x 1 is more than 1 x e^-120, but float32 holds neither.
    assert fine.flatten().tolist() == pytest.approx([-math.log(1 + math.exp(-10)), -10.0], abs=1e-3)


def test_half_precision_is_left() -> None:
    logits = [torch.zeros(2, size, dtype=torch.bfloat16) for size in BIRDS.sizes]
    assert {each.dtype for each in hie(logits, BIRDS)} == {torch.float32}


def test_fine_first_is_refused() -> None:
    logits = [torch.zeros(2, size) for size in reversed(BIRDS.sizes)]
    with pytest.raises(ValueError, match=r"\(2, 3, 6\) classes, coarse to fine, got \(6, 3, 2\)"):
        hie(logits, BIRDS)
