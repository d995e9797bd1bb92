from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch import Tensor
from torchmetrics.functional.classification import (
    multilabel_average_precision,
    multilabel_f1_score,
    multilabel_precision,
    multilabel_recall,
)

from castssl.labels import LabelTree
from castssl.metrics.multilabel import (
    average_precisions,
    measures,
    precision_recall,
    top_labels,
    without_parent,
    without_positives,
)

CLASSES = 5
TREE = LabelTree((2, 3), ((0, 0, 1),), exclusive=False)


def scored(*, ties: bool, unknown: bool, seed: int = 0, images: int = 60) -> tuple[Tensor, Tensor]:
    """Scores in [0, 1] that know something of the targets; each class has positives."""
    draw = torch.Generator().manual_seed(seed)
    targets = (torch.rand(images, CLASSES, generator=draw) < 0.3).float()
    targets[0] = 1
    scores = (torch.rand(images, CLASSES, generator=draw) + 0.5 * targets) / 1.5
    if unknown:
        hidden = torch.rand(images, CLASSES, generator=draw) < 0.2
        hidden[0] = False
        targets[hidden] = -1
    return (scores * 8).round() / 8 if ties else scores, targets


CASES = [(ties, unknown) for ties in (False, True) for unknown in (False, True)]


def naive(score: Tensor, target: Tensor, points: bool) -> float:
    """Average precision by its definition: a ranking whose places are the different scores."""
    pairs = [(float(s), float(t)) for s, t in zip(score, target, strict=True) if t >= 0]
    positives = sum(t for _, t in pairs)
    curve = []
    for place in sorted({s for s, _ in pairs}, reverse=True):
        above = [t for s, t in pairs if s >= place]
        curve.append((sum(above), sum(above) / len(above)))
    if points:
        reached = [[p for found, p in curve if found * 10 >= k * positives] for k in range(11)]
        return sum(map(max, reached)) / 11
    steps = zip([0, *(found for found, _ in curve)], curve, strict=False)
    return sum((found - before) / positives * p for before, (found, p) in steps)


@pytest.mark.parametrize(("ties", "unknown"), CASES)
def test_average_precision_is_that_of_its_definition_and_of_both_libraries(ties: bool, unknown: bool) -> None:
    scores, targets = scored(ties=ties, unknown=unknown)
    found = average_precisions(scores, targets)
    by_torchmetrics = multilabel_average_precision(
        scores, targets.long(), CLASSES, average=None, ignore_index=-1
    )
    assert found.tolist() == pytest.approx(by_torchmetrics.tolist(), abs=1e-6)
    for column, value in enumerate(found.tolist()):
        score, target = scores[:, column], targets[:, column]
        known = target >= 0
        assert value == pytest.approx(average_precision_score(target[known], score[known]), abs=1e-12)
        assert value == pytest.approx(naive(score, target, False), abs=1e-12)
        eleven = float(average_precisions(scores, targets, "11-point")[column])
        assert eleven == pytest.approx(naive(score, target, True), abs=1e-12)
        assert eleven != pytest.approx(value, abs=1e-4)


def test_eleven_points_count_a_recall_that_is_exactly_reached() -> None:
    # 10 positives: 3 / 10 is below 3 * 0.1 as a float64.
    targets = torch.tensor([1.0] * 3 + [0.0] * 90 + [1.0] * 7)[:, None]
    scores = torch.arange(100, 0, -1.0)[:, None]
    assert float(average_precisions(scores, targets, "11-point")) == pytest.approx((4 + 7 * 10 / 100) / 11)


@pytest.mark.parametrize(("ties", "unknown"), CASES)
@pytest.mark.parametrize("top", [False, True])
def test_precision_and_recall_are_those_of_both_libraries(ties: bool, unknown: bool, top: bool) -> None:
    scores, targets = scored(ties=ties, unknown=unknown)
    predicted = top_labels(scores) if top else scores > 0.5
    found = precision_recall(predicted, targets)
    options: dict[str, Any] = {"num_labels": CLASSES, "ignore_index": -1}
    averages: tuple[tuple[str, Literal["micro", "macro"]], ...] = (("O", "micro"), ("C", "macro"))
    for letter, average in averages:
        for name, function in (("P", multilabel_precision), ("R", multilabel_recall)):
            value = float(function(predicted.float(), targets.long(), average=average, **options))
            assert found[letter + name] == pytest.approx(value, abs=1e-6)
        p, r = found[f"{letter}P"], found[f"{letter}R"]
        assert found[f"{letter}F1"] == pytest.approx(2 * p * r / (p + r), abs=1e-12)
    micro = multilabel_f1_score(predicted.float(), targets.long(), average="micro", **options)
    assert found["OF1"] == pytest.approx(float(micro), abs=1e-6)
    if not unknown:
        for letter, average in averages:
            p, r, _, _ = precision_recall_fscore_support(targets, predicted, average=average, zero_division=0)
            assert (found[f"{letter}P"], found[f"{letter}R"]) == pytest.approx((p, r), abs=1e-12)


def test_top_labels_are_the_highest_scores_and_of_equal_ones_the_last_classes() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.6], [0.5, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 0.2]])
    found = top_labels(scores, 2).nonzero()[:, 1].view(3, 2)
    assert found.tolist() == [[1, 3], [2, 3], [0, 2]]
    # scikit-learn's rule: a stable sort, read from its end.
    assert found.tolist() == [
        sorted(row) for row in scores.argsort(dim=1, stable=True).flip(1)[:, :2].tolist()
    ]
    assert top_labels(scores, 9).all()


def test_classes_without_positives_are_left_out_of_means_only() -> None:
    scores, targets = scored(ties=False, unknown=True)
    targets[:, 3] = targets[:, 3].clamp(max=0)
    assert without_positives(targets) == [3]
    kept = [0, 1, 2, 4]
    found, others = measures(scores, targets), measures(scores[:, kept], targets[:, kept])
    for name in ("mAP", "mAP_11point", "CP", "CR", "CF1", "OR"):
        assert found[name] == pytest.approx(others[name], abs=1e-12)
    assert found["OP"] < others["OP"], "what is predicted of the class is wrong"
    assert (found["unscored_classes"], others["unscored_classes"]) == (1, 0)
    assert math.isnan(average_precisions(scores, targets)[3])
    assert measures(scores, targets.clamp(max=0)) == {}


def test_nothing_predicted_is_zero_and_no_warning() -> None:
    scores, targets = scored(ties=False, unknown=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measures(scores, targets, threshold=2)
    assert [found[name] for name in ("OP", "OR", "OF1", "CP", "CR", "CF1")] == [0] * 6


@pytest.mark.parametrize("ties", [False, True])
def test_neither_the_order_of_images_nor_that_of_classes_matters(ties: bool) -> None:
    scores, targets = scored(ties=ties, unknown=True, seed=1)
    found = measures(scores, targets)
    images, classes = torch.randperm(len(scores)), torch.randperm(CLASSES)
    assert measures(scores[images], targets[images]) == pytest.approx(found, abs=1e-12)
    if ties:  # Of equal scores of an image the higher class number wins.
        found = {name: value for name, value in found.items() if not name.endswith("_top3")}
    permuted = measures(scores[:, classes], targets[:, classes])
    assert {name: permuted[name] for name in found} == pytest.approx(found, abs=1e-12)
    # Only the order of the scores of a class decides its average precision.
    assert measures(scores.exp(), targets)["mAP"] == pytest.approx(found["mAP"], abs=1e-12)


def test_levels_side_by_side_have_a_map_each_and_children_without_a_parent() -> None:
    scores, targets = scored(ties=False, unknown=False)
    found = measures(scores, targets, TREE)
    by_class = average_precisions(scores, targets)
    assert found["mAP_level0"] == pytest.approx(float(by_class[:2].mean()))
    assert found["mAP_level1"] == pytest.approx(float(by_class[2:].mean()))
    parents = {2: 0, 3: 0, 4: 1}
    wrong = sum(any(row[c] > 0.5 >= row[p] for c, p in parents.items()) for row in scores.tolist())
    assert 0 < wrong < len(scores)
    assert found["without_parent"] == pytest.approx(wrong / len(scores))
    predicted = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]).bool()
    assert without_parent(predicted, TREE) == 1 / 4
    three = LabelTree((1, 2, 2), ((0, 0), (0, 1)), exclusive=False)
    # Of three levels, the first has a child without a parent at the top, the second at the bottom.
    predicted = torch.tensor([[0, 1, 0, 1, 0], [1, 1, 0, 0, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()
    assert without_parent(predicted, three) == 2 / 4
    assert "without_parent" not in measures(scores, targets, LabelTree((2, 3), exclusive=False))
    assert "mAP_level0" not in measures(scores, targets)


@pytest.mark.parametrize(
    ("scores", "targets", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), r"\(2, 3\) and \(2, 4\)"),
        (torch.tensor([[math.nan]]), torch.ones(1, 1), "not finite"),
        (torch.zeros(1, 2), torch.tensor([[0.0, 0.5]]), r"got \[0.5\]"),
    ],
)
def test_what_is_no_scores_and_targets_is_refused(scores: Tensor, targets: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measures(scores, targets)
