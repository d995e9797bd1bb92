from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchmetrics import Metric, MetricCollection

from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.metrics.hierarchy import (
    FullPathAccuracy,
    LevelAccuracy,
    PathMetric,
    TreeInconsistency,
    WeightedAveragePrecision,
)
from castssl.metrics.mistakes import HierarchicalDistance, MistakeSeverity
from tests.metrics.trees import BIRDS, Case, accuracies, cases, full_path, inconsistency

PREDICTED = torch.tensor([[0, 0, 1], [0, 1, 3], [1, 2, 4], [0, 2, 4], [1, 0, 1]])
TARGET = torch.tensor([[0, 0, 1], [0, 1, 2], [1, 2, 5], [1, 2, 4], [0, 0, 1]])
KINDS = [LevelAccuracy, FullPathAccuracy, TreeInconsistency, WeightedAveragePrecision]
SLACK = 1e-6
"""Of numbers in float32."""


def computed(metric: Metric, case: Case) -> Tensor:
    """The metric of a case, updated in two batches."""
    for part in (slice(None, 3), slice(3, None)):
        metric.update(case.predicted[part], case.target[part], valid=case.valid[part])
    value: Tensor = metric.compute()
    return value


def same(value: Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(value, torch.tensor(expected).squeeze(), rtol=0, atol=SLACK, equal_nan=True)


def test_by_hand() -> None:
    case = Case(BIRDS, PREDICTED, TARGET, torch.ones(5, dtype=torch.bool))
    # Images 0, 1, 2 are right at the coarsest level, all but none at the middle one, 0, 3, 4 at the finest.
    same(computed(LevelAccuracy(BIRDS), case), [3 / 5, 5 / 5, 3 / 5])
    same(computed(WeightedAveragePrecision(BIRDS), case), (2 * 3 + 3 * 5 + 6 * 3) / 5 / 11)
    same(computed(FullPathAccuracy(BIRDS), case), 1 / 5)
    same(computed(TreeInconsistency(BIRDS), case), 2 / 5)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_as_counted_one_by_one(case: Case) -> None:
    levels, sizes = accuracies(case), case.tree.sizes
    same(computed(LevelAccuracy(case.tree), case), levels)
    weighted = sum(size * share for size, share in zip(sizes, levels, strict=True)) / sum(sizes)
    same(computed(WeightedAveragePrecision(case.tree), case), weighted)
    same(computed(FullPathAccuracy(case.tree), case), full_path(case))
    same(computed(TreeInconsistency(case.tree), case), inconsistency(case))


@given(cases(partial=False))
@settings(max_examples=60, deadline=None)
def test_invariants_of_whole_paths(case: Case) -> None:
    case = case._replace(valid=case.valid | True)
    levels = computed(LevelAccuracy(case.tree), case)
    fpa, tice = computed(FullPathAccuracy(case.tree), case), computed(TreeInconsistency(case.tree), case)
    wap = computed(WeightedAveragePrecision(case.tree), case)
    assert fpa <= levels.min()
    assert fpa >= levels.sum() - (case.tree.levels - 1) - SLACK
    assert tice <= 1 - fpa + SLACK
    # Who is right at the finest level alone is on no path.
    assert levels.flatten()[-1] - fpa <= tice + SLACK
    assert levels.min() - SLACK <= wap <= levels.max() + SLACK


@given(cases())
@settings(max_examples=40, deadline=None)
def test_parents_read_off_the_tree_are_consistent(case: Case) -> None:
    derived = case._replace(predicted=case.tree.paths()[case.predicted[:, -1]], valid=case.valid | True)
    metric = TreeInconsistency(case.tree)
    metric.update(derived.predicted)
    same(metric.compute(), 0.0)
    whole = derived._replace(target=case.tree.paths()[case.target[:, -1].clamp(min=0)])
    fine = computed(LevelAccuracy(case.tree), whole).flatten()[-1]
    same(computed(FullPathAccuracy(case.tree), whole), float(fine))


def test_inconsistency_of_a_tree_whose_paths_no_number_could_hold() -> None:
    sizes = (273, 1103, 10000)  # iNaturalist 2021
    parents = tuple(tuple(at * above // own for at in range(own)) for above, own in pairwise(sizes))
    tree = LabelTree(sizes=sizes, parents=parents)
    generator = torch.Generator().manual_seed(0)
    predicted = tree.paths()[torch.randint(10000, (500,), generator=generator)]
    predicted[::2, 1] += torch.randint(0, 2, (250,), generator=generator)
    predicted.clamp_(max=1102)
    paths = {tuple(path) for path in tree.paths().tolist()}
    metric = TreeInconsistency(tree)
    metric.update(predicted.int())
    expected = sum(tuple(path) not in paths for path in predicted.tolist()) / 500
    assert 0 < expected < 1
    same(metric.compute(), expected)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")  # torchmetrics copies its first states
@pytest.mark.parametrize("kind", [*KINDS, MistakeSeverity, HierarchicalDistance])
def test_counting_does_not_wait_for_the_device(kind: type[PathMetric]) -> None:
    with FakeTensorMode():
        metric = kind(BIRDS)
        target = torch.zeros(4, 3, dtype=torch.int64)
        judged = torch.zeros(4, 6) if kind is HierarchicalDistance else target
        metric.update(judged, target, valid=torch.ones(4, dtype=torch.bool))
        metric.compute()


@pytest.mark.parametrize("strange", [-1, 6, 100])
def test_a_prediction_that_is_no_class_is_wrong_and_on_no_path(strange: int) -> None:
    predicted = torch.tensor([[0, 0, strange]])
    target = torch.tensor([[0, 0, 0]])
    for kind, expected in (
        (FullPathAccuracy, 0.0),
        (TreeInconsistency, 1.0),
        (LevelAccuracy, [1.0, 1.0, 0.0]),
        (WeightedAveragePrecision, (2 + 3) / 11),
    ):
        metric = kind(BIRDS)
        metric.update(predicted, target)
        same(metric.compute(), expected)


def test_work_as_other_metrics_of_torchmetrics_do() -> None:
    together = MetricCollection([LevelAccuracy(BIRDS), FullPathAccuracy(BIRDS), TreeInconsistency(BIRDS)])
    first = together(PREDICTED[:2], TARGET[:2])
    together.update(PREDICTED[2:], TARGET[2:])
    same(first["FullPathAccuracy"], 1 / 2)
    same(pickle.loads(pickle.dumps(together)).compute()["FullPathAccuracy"], 1 / 5)
    together.reset()
    together.update(PREDICTED[:1], TARGET[:1])
    same(together.compute()["LevelAccuracy"], [1.0, 1.0, 1.0])
    assert not together.state_dict()


@pytest.mark.parametrize(
    ("predicted", "target", "valid"),
    [
        (PREDICTED[:, :2], TARGET, None),
        (PREDICTED, TARGET[:, :2], None),
        (PREDICTED[:3], TARGET, None),
        (PREDICTED.float(), TARGET, None),
        (PREDICTED, TARGET, torch.ones(4, dtype=torch.bool)),
        (PREDICTED, TARGET, torch.ones(5)),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_other_shapes_are_refused(
    kind: type[PathMetric], predicted: Tensor, target: Tensor, valid: Tensor | None
) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: "):
        kind(BIRDS).update(predicted, target, valid)


@pytest.mark.parametrize("tree", [LabelTree.none(), LabelTree(sizes=(20,), exclusive=False)])
def test_trees_without_one_path_an_image_are_refused(tree: LabelTree) -> None:
    with pytest.raises(ConfigError, match="FullPathAccuracy needs one path an image"):
        FullPathAccuracy(tree)


@pytest.mark.parametrize("metric", [TreeInconsistency, MistakeSeverity])
def test_narrow_class_numbers_index_as_wide_ones(
    metric: type[TreeInconsistency] | type[MistakeSeverity],
) -> None:
    tree = LabelTree((2, 4), ((0, 0, 1, 1),))
    predicted, target = (
        torch.tensor([[1, 3], [1, 2], [1, 2], [0, 1]]),
        torch.tensor([[1, 3], [1, 3], [0, 0], [0, 1]]),
    )
    found = []
    for dtype in (torch.int64, torch.int8, torch.uint8):
        measured = metric(tree)
        measured.update(predicted.to(dtype), target.to(dtype))
        found.append(measured.compute().item())
    assert found == [found[0]] * 3
