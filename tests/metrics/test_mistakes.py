from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.labels import LabelTree
from castssl.metrics.mistakes import HierarchicalDistance, MistakeSeverity
from tests.metrics.trees import BIRDS, Case, cases, height, real, severity, share


def test_by_hand() -> None:
    # Class 0's sibling is 1; 2 and 3 share its coarsest class; 4 and 5 share nothing with it.
    target = torch.tensor([[0, 0, 0]] * 4)
    predicted = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 5]])
    metric = MistakeSeverity(BIRDS)
    metric.update(predicted, target)
    assert float(metric.compute()) == (1 + 2 + 3) / 3
    distance = HierarchicalDistance(BIRDS)
    assert distance.top_k == (1, 5)
    distance.update(torch.tensor([[6.0, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]]), target[:2])
    assert distance.compute().tolist() == pytest.approx(
        [(0 + 3) / 2, (0 + 1 + 2 + 2 + 3 + 3 + 3 + 2 + 2 + 1) / 10]
    )


@given(cases())
@settings(max_examples=60, deadline=None)
def test_severity_as_counted_one_by_one(case: Case) -> None:
    metric = MistakeSeverity(case.tree)
    metric.update(case.predicted, case.target, case.valid)
    found = float(metric.compute())
    assert found == pytest.approx(severity(case), nan_ok=True)
    assert not found < 1
    assert not found > case.tree.levels


@given(cases(), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_distance_as_counted_one_by_one(case: Case, seed: int) -> None:
    classes = case.tree.sizes[-1]
    scores = torch.randn(len(case.target), classes, generator=torch.Generator().manual_seed(seed))
    metric = HierarchicalDistance(case.tree, top_k=(1, 2, 3))
    metric.update(scores[:3], case.target[:3], case.valid[:3])
    metric.update(scores[3:], case.target[3:], case.valid[3:])
    ranked = case._replace(predicted=scores.argsort(1, descending=True))
    expected = [
        share([height(case.tree, c, t[-1]) for order, t in real(ranked) if t[-1] >= 0 for c in order[:k]])
        for k in (1, 2, 3)
        if k < classes
    ]
    assert metric.compute().flatten().tolist() == pytest.approx(expected, nan_ok=True)
    # At k = 1 it is severity, thinned by the images that are right.
    first = case._replace(predicted=scores.argmax(1, keepdim=True).expand(-1, case.tree.levels))
    pairs = [(p[-1], t[-1]) for p, t in real(first) if t[-1] >= 0]
    if classes > 1 and any(p != t for p, t in pairs):
        assert expected[0] == pytest.approx(severity(first) * share([p != t for p, t in pairs]))


def test_a_prediction_that_is_no_class_shares_nothing() -> None:
    metric = MistakeSeverity(BIRDS)
    metric.update(torch.tensor([[0, 0, -1], [0, 0, 6]]), torch.tensor([[0, 0, 0], [1, 2, 5]]))
    assert float(metric.compute()) == 3


def test_of_one_class_nothing_is_asked() -> None:
    metric = HierarchicalDistance(LabelTree(sizes=(1,)))
    metric.update(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.int64))
    assert metric.compute().tolist() == []


def test_other_widths_are_refused() -> None:
    metric, target = HierarchicalDistance(BIRDS), torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"scores must be \(B, 6\), got \(2, 5\)"):
        metric.update(torch.zeros(2, 5), target)
    with pytest.raises(ValueError, match="for 2 targets, got 3"):
        metric.update(torch.zeros(3, 6), target)
