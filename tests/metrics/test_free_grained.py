"""Answers that stop, against loops over Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.metrics.free_grained import (
    GRID,
    Answers,
    Curve,
    Guesses,
    Rule,
    answer_depths,
    choose_threshold,
    consistent,
    guess,
    known_path_accuracy,
    measure,
    risk_coverage,
    summarize,
)
from tests.metrics.trees import BIRDS, Case, cases

RULES: tuple[Rule, ...] = ("consistency", "confidence", "both")
LEVELS = (0.0, 0.25, 0.5, 0.9, 1.0, math.nan)


@st.composite
def guesses(draw: st.DrawFn) -> tuple[LabelTree, Guesses]:
    """Predictions with probabilities of which many are equal."""
    case: Case = draw(cases())
    count, levels = case.predicted.shape
    share = st.sampled_from(LEVELS)
    rows = draw(st.lists(st.lists(share, min_size=levels, max_size=levels), min_size=count, max_size=count))
    return case.tree, Guesses(case.predicted, torch.tensor(rows), case.target)


def ancestors(tree: LabelTree, level: int, number: int) -> list[int]:
    """The path of a class, coarse to fine."""
    path = [number]
    for table in reversed(tree.parents[:level]):
        path.insert(0, table[path[0]])
    return path


def depth_of(
    tree: LabelTree, predicted: Sequence[int], shares: Sequence[float], rule: Rule, threshold: float
) -> int:
    """Where an answer stops, a step down at a time."""
    agrees = [
        ancestors(tree, level, predicted[level]) == list(predicted[: level + 1])
        for level in range(tree.levels)
    ]
    if rule == "both":
        fit = [i + 1 for i in range(tree.levels) if agrees[i] and shares[i] >= threshold]
        return max(fit, default=0)
    depth = 0
    for level in range(tree.levels):
        if not (agrees[level] if rule == "consistency" else shares[level] >= threshold):
            break
        depth += 1
    return depth


def distance_of(tree: LabelTree, predicted: Sequence[int], depth: int, target: Sequence[int]) -> int:
    """Edges up from the answer, as far as the label is known, and down to the label."""
    label = [number for number in target if number >= 0]
    answer = ancestors(tree, depth - 1, predicted[depth - 1])[: len(label)] if depth else []
    shared = 0
    while shared < min(len(answer), len(label)) and answer[shared] == label[shared]:
        shared += 1
    return len(answer) - shared + len(label) - shared


def naive(tree: LabelTree, given: Guesses, depths: Sequence[int]) -> Answers:
    predicted, target = given.predicted.tolist(), given.target.tolist()
    right, scored, edges = 0, 0, 0
    for row, depth in enumerate(depths):
        edges += distance_of(tree, predicted[row], depth, target[row])
        if depth and target[row][depth - 1] >= 0:
            scored += 1
            right += predicted[row][depth - 1] == target[row][depth - 1]
    count = len(depths)
    shares = tuple(list(depths).count(depth) / count for depth in range(tree.levels + 1))
    return Answers(right / scored if scored else math.nan, sum(depths) / count, edges / count, shares)


@given(guesses(), st.sampled_from(RULES), st.sampled_from((0.0, 0.3, 0.5, 0.9, 0.95, 1.0)))
@settings(max_examples=60, deadline=None)
def test_answers_are_those_of_a_walk_down_the_tree(
    drawn: tuple[LabelTree, Guesses], rule: Rule, threshold: float
) -> None:
    tree, given = drawn
    depths = answer_depths(tree, given, rule, threshold)
    pairs = zip(given.predicted.tolist(), given.probability.tolist(), strict=True)
    assert depths.tolist() == [depth_of(tree, *pair, rule, threshold) for pair in pairs]
    found, expected = measure(tree, given, depths), naive(tree, given, depths.tolist())
    assert found is not None
    assert found[:3] == pytest.approx(expected[:3], nan_ok=True)
    assert found.shares == pytest.approx(expected.shares)


@given(guesses())
@settings(max_examples=30, deadline=None)
def test_consistent_levels_are_paths_of_the_tree(drawn: tuple[LabelTree, Guesses]) -> None:
    tree, given = drawn
    cut = [given.predicted.masked_fill(torch.arange(tree.levels) > level, -1) for level in range(tree.levels)]
    expected = torch.stack([tree.valid(paths) for paths in cut], 1)
    assert torch.equal(consistent(tree, given.predicted), expected)


@given(guesses(), st.sampled_from(RULES[1:]))
@settings(max_examples=40, deadline=None)
def test_a_point_of_the_curve_is_a_threshold(drawn: tuple[LabelTree, Guesses], rule: Rule) -> None:
    tree, given = drawn
    curve = risk_coverage(tree, given, rule)
    known = [(row, level) for row, level in (given.target >= 0).nonzero().tolist()]
    points: list[tuple[float, float, float]] = []
    shares = given.probability.double().nan_to_num(0.0).flatten().tolist()
    for threshold in sorted({*shares}, reverse=True):
        depths = answer_depths(tree, given, rule, threshold).tolist()
        answered = [(row, level) for row, level in known if level < depths[row]]
        wrong = sum(int(given.predicted[place]) != int(given.target[place]) for place in answered)
        point = (threshold, len(answered) / max(len(known), 1), wrong / max(len(answered), 1))
        if answered and (not points or point[1] > points[-1][1]):
            points.append(point)
    if not points:
        assert curve is None
        return
    assert curve is not None
    for column, expected in zip(curve, zip(*points, strict=True), strict=True):
        assert column.tolist() == pytest.approx(expected)
    area, before = 0.0, 0.0
    for _, coverage, risk in points:
        area += (coverage - before) * risk
        before = coverage
    assert curve.area == pytest.approx(area / before)


@given(guesses(), st.sampled_from(RULES[1:]))
@settings(max_examples=4, deadline=None)
def test_the_chosen_threshold_has_the_least_distance(drawn: tuple[LabelTree, Guesses], rule: Rule) -> None:
    tree, given = drawn
    scores = []
    for step in range(GRID):
        answers = measure(tree, given, answer_depths(tree, given, rule, step / 100))
        assert answers is not None
        scores.append(answers.distance)
    assert choose_threshold(tree, given, rule) == scores.index(min(scores)) / 100


def test_one_more_level_pays_where_it_is_right_more_often_than_not() -> None:
    """Of levels with the probability 0.3 one in four is right, of those with 0.6 three in four."""
    tree = LabelTree((1, 2), ((0, 0),))
    predicted = torch.zeros(8, 2, dtype=torch.int64)
    probability = torch.tensor([[1.0, 0.3]] * 4 + [[1.0, 0.6]] * 4)
    target = torch.tensor([[0, n] for n in (0, 1, 1, 1, 0, 0, 0, 1)])
    assert choose_threshold(tree, Guesses(predicted, probability, target), "both") == 0.31
    assert (
        choose_threshold(
            tree, Guesses(predicted, probability, target).take(torch.zeros(8, dtype=torch.bool)), "both"
        )
        is None
    )


def test_by_hand() -> None:
    """Three images: consistent and right, contradicting below the first level, sure of the last alone."""
    predicted = torch.tensor([[0, 1, 2], [1, 0, 0], [0, 0, 1]])
    probability = torch.tensor([[0.99, 0.95, 0.5], [0.95, 0.91, 0.91], [0.6, 0.7, 0.92]])
    target = torch.tensor([[0, 1, 2], [0, 0, 0], [0, 0, -1]])
    given = Guesses(predicted, probability, target)
    depths = {rule: answer_depths(BIRDS, given, rule, 0.9).tolist() for rule in RULES}
    assert depths == {"consistency": [3, 1, 3], "confidence": [2, 3, 0], "both": [2, 1, 3]}
    found = measure(BIRDS, given, torch.tensor(depths["both"]))
    assert found is not None
    assert found.accuracy == 0.5  # The third answer is finer than its label.
    assert found.distance == (1 + 4 + 0) / 3
    assert found.shares == (0, 1 / 3, 1 / 3, 1 / 3)
    confident = measure(BIRDS, given, torch.tensor(depths["confidence"]))
    assert confident is not None
    assert confident.accuracy == 1.0  # The second answer is the finest class 0, with its own ancestors.
    assert confident.distance == (1 + 0 + 2) / 3
    assert known_path_accuracy(given) == 2 / 3
    names = summarize({"both": found, "none": None})
    assert names["answer_both_depth_levels"] == 2
    assert [names[f"answer_both_share_{depth}"] for depth in range(4)] == pytest.approx(
        [0, 1 / 3, 1 / 3, 1 / 3]
    )


def test_what_nothing_decides_is_none() -> None:
    none = Guesses(
        torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)
    )
    assert measure(BIRDS, none, torch.zeros(0, dtype=torch.int64)) is None
    assert risk_coverage(BIRDS, none, "both") is None
    assert known_path_accuracy(none) is None
    unknown = Guesses(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3), torch.full((1, 3), -1))
    found = measure(BIRDS, unknown, torch.tensor([3]))
    assert "answer_both_accuracy" not in summarize({"both": found})
    assert known_path_accuracy(unknown) is None


def test_a_thinned_curve_keeps_its_ends() -> None:
    steps = torch.arange(10, dtype=torch.float64)
    thin = Curve(9 - steps, steps / 9, steps).thinned(4)
    assert thin.threshold.tolist() == [9, 6, 3, 0]
    assert len(Curve(steps, steps, steps).thinned(100).risk) == 10


def test_arrays_of_logits_become_guesses() -> None:
    logits = [np.log([[0.9, 0.1]]), np.log([[0.2, 0.5, 0.3]]), np.zeros((1, 6), dtype=np.float32)]
    found = guess(BIRDS, logits, np.array([[0, 1, -1]]))
    assert found.predicted[:, :2].tolist() == [[0, 1]]
    assert found.probability.tolist() == [pytest.approx([0.9, 0.5, 1 / 6])]
    assert found.target.tolist() == [[0, 1, -1]]
    assert answer_depths(BIRDS, found, "both", 0.4).tolist() == [2]
    assert guess(BIRDS, logits).target.tolist() == [[-1, -1, -1]]


def test_what_is_no_guess_no_rule_and_no_threshold_is_refused() -> None:
    logits = [torch.zeros(2, size) for size in BIRDS.sizes]
    with pytest.raises(ConfigError, match=r"got logits .*expected .*\(2, 3, 6\) classes, coarse to fine"):
        guess(BIRDS, logits[::-1])
    with pytest.raises(ConfigError, match=r"got labels \(2,\), expected \(2, 3\)"):
        guess(BIRDS, logits, torch.zeros(2))
    given = guess(BIRDS, logits)
    with pytest.raises(ConfigError, match="the rule 'chosen', expected one of consistency, confidence, both"):
        answer_depths(BIRDS, given, "chosen", 0.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the threshold 90, expected 0 to 1"):
        answer_depths(BIRDS, given, "both", 90)
    with pytest.raises(ConfigError, match=r"guess\(tree, logits\) makes them of logits"):
        risk_coverage(BIRDS, given._replace(probability=given.probability + 3), "confidence")
    diverged = guess(BIRDS, [level + math.nan for level in logits])
    assert answer_depths(BIRDS, diverged, "confidence", 0.5).tolist() == [0, 0]
