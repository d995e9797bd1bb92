"""How good answers are that stop at the level where the classes are sure, for a classifier of all levels.

Free-Grained Hierarchical Visual Recognition (CVPR 2026), https://arxiv.org/abs/2510.14737, predicts each
level by itself and then chooses how deep to answer.  The paper's measures were not at hand; these are ours,
with the risk and the coverage of selective classification (https://arxiv.org/abs/1901.09192).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from castssl.errors import ConfigError
from castssl.labels import LabelTree

Rule = Literal["consistency", "confidence", "both"]
"""How an answer stops, going down from the coarsest level; see :func:`answer_depths`."""
GRID = 101
"""Thresholds to choose from: 0, 0.01, ..., 1."""


class Guesses(NamedTuple):
    """What a classifier predicts for n images, each of L levels by itself, coarse to fine."""

    predicted: Tensor
    """int64 (n, L), the likeliest class of each level."""
    probability: Tensor
    """float (n, L), its share of the softmax of its level."""
    target: Tensor
    """int64 (n, L), -1 from the level on at which the label is unknown."""

    def take(self, rows: Tensor) -> Guesses:
        """Those of some images: int64 (m,) or bool (n,)."""
        return Guesses(*(column[rows] for column in self))


class Answers(NamedTuple):
    """How good the answers to some images are."""

    accuracy: float
    """The share of answers that are right: the class at the level where each stops.  Of the images with an
    answer whose label is known at that level; not a number without any."""
    depth: float
    """The mean number of levels that are answered, 0 to L."""
    distance: float
    """The mean number of edges of the tree between the answer and the label, as far as that is known."""
    shares: tuple[float, ...]
    """The share of the images whose answer has 0, 1, ..., L levels."""


class Curve(NamedTuple):
    """Risk and coverage of a rule at all thresholds, from the highest threshold down.

    The threshold decides on the labels of all levels of all images.  A point is a threshold.
    """

    threshold: Tensor
    """float64 (m,), descending."""
    coverage: Tensor
    """float64 (m,), the share of the known labels that are answered, ascending."""
    risk: Tensor
    """float64 (m,), the share of these answers that are wrong."""

    @property
    def area(self) -> float:
        """The mean of the risk over the labels that are ever answered, each at the least coverage with it."""
        steps = self.coverage.diff(prepend=torch.zeros(1, dtype=torch.float64))
        return float((steps * self.risk).sum() / steps.sum())

    def thinned(self, points: int) -> Curve:
        """At most so many of the points, evenly spread, with the last one."""
        count = len(self.threshold)
        chosen = torch.linspace(0, count - 1, min(points, count)).round().long().unique()
        return Curve(*(column[chosen] for column in self))


def guess(
    tree: LabelTree, logits: Sequence[Tensor | np.ndarray], target: Tensor | np.ndarray | None = None
) -> Guesses:
    """The likeliest class of each level, and its share of the softmax of the level.

    Args:
        tree: the label tree.
        logits: float (n, C_l) for each of L levels, coarse to fine.
        target: int64 (n, L), -1 unknown; without it, all labels are unknown.

    Raises:
        ConfigError: if the logits or labels are not of the levels of the tree.
    """
    scores = [torch.as_tensor(level) for level in logits]
    rows = len(scores[0]) if scores else 0
    if (got := [tuple(level.shape) for level in scores]) != [(rows, size) for size in tree.sizes]:
        raise ConfigError(
            f"got logits {got}, expected (n, classes) with {tree.sizes} classes, coarse to fine"
        )
    labels = torch.full((rows, tree.levels), -1) if target is None else torch.as_tensor(target)
    if tuple(labels.shape) != (rows, tree.levels):
        raise ConfigError(f"got labels {tuple(labels.shape)}, expected {(rows, tree.levels)}: one per image")
    found = [level.softmax(1).max(1) for level in scores]
    predicted, probability = (torch.stack([level[index] for level in found], 1) for index in (1, 0))
    return Guesses(predicted, probability, labels)


def consistent(tree: LabelTree, predicted: Tensor) -> Tensor:
    """Whether each level's class and all coarser ones are a path of the tree: bool (n, L)."""
    agrees = [torch.ones(len(predicted), dtype=torch.bool)]
    for level, table in enumerate(tree.parents, start=1):
        parent = torch.tensor(table)[predicted[:, level]]
        agrees.append(agrees[-1] & (parent == predicted[:, level - 1]))
    return torch.stack(agrees, 1)


def reach(tree: LabelTree, guesses: Guesses, rule: Rule) -> Tensor:
    """The highest threshold at which each label is answered: float64 (n, L), below 0 for none.

    It does not increase from a level to the next finer one; a probability that is not a number reaches no
    threshold.  See :func:`answer_depths`.

    Raises:
        ConfigError: if there is no such rule, or a probability is not in [0, 1].
    """
    if rule not in get_args(Rule):
        raise ConfigError(f"got the rule {rule!r}, expected one of {', '.join(get_args(Rule))}")
    probability = guesses.probability.double()
    if bool(((probability < 0) | (probability > 1 + 1e-4)).any()):
        raise ConfigError("got probabilities outside of 0 to 1; guess(tree, logits) makes them of logits")
    probability = probability.nan_to_num(-1.0)  # Those of a diverged model.
    if rule == "confidence":
        return probability.cummin(1).values
    agrees = consistent(tree, guesses.predicted)
    if rule == "consistency":
        return torch.where(agrees, torch.inf, -1.0)
    return torch.where(agrees, probability, -1.0).flip(1).cummax(1).values.flip(1)


def answer_depths(tree: LabelTree, guesses: Guesses, rule: Rule, threshold: float = 0.0) -> Tensor:
    """How many levels are answered: int64 (n,), 0 to L.

    ``consistency``: down while the class is a child of the class above, by the tree (the paper's better
    rule).  ``confidence``: down while the probability is at least the threshold (the paper's is 0.9).
    ``both``: to the finest level of a consistent path whose own probability is at least the threshold, as
    ``castssl predict --min-confidence``.

    Args:
        tree: the label tree.
        guesses: predictions for n images.
        rule: one of these.
        threshold: in [0, 1]; ``consistency`` has none.

    Raises:
        ConfigError: if there is no such rule, or a probability or the threshold is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"got the threshold {threshold}, expected 0 to 1")
    return (reach(tree, guesses, rule) >= threshold).sum(1)


def measure(tree: LabelTree, guesses: Guesses, depths: Tensor) -> Answers | None:
    """How good the answers of these depths are; None without images.

    An answer is the class at the level where it stops, with its ancestors by the tree.

    Args:
        tree: the label tree.
        guesses: predictions for n images.
        depths: int64 (n,), 0 to L.
    """
    count, levels = guesses.predicted.shape
    if not count:
        return None
    shared, known = _shared(tree, guesses, depths), (guesses.target >= 0).sum(1)
    scored = (depths > 0) & (depths <= known)
    right = scored & (shared == depths)
    accuracy = int(right.sum()) / total if (total := int(scored.sum())) else float("nan")
    edges = depths.minimum(known) + known - 2 * shared
    shares = (depths.bincount(minlength=levels + 1).double() / count).tolist()
    return Answers(accuracy, int(depths.sum()) / count, int(edges.sum()) / count, tuple(shares))


def choose_threshold(tree: LabelTree, guesses: Guesses, rule: Rule) -> float | None:
    """The lowest of :data:`GRID` thresholds whose answers have the smallest mean distance from the labels.

    One more level is one edge nearer if it is right, and one edge farther if it is wrong.

    Args:
        tree: the label tree.
        guesses: predictions for images that are not measured afterwards.
        rule: ``confidence`` or ``both``.

    Returns:
        None without images.
    """
    limits, best = reach(tree, guesses, rule), None
    for threshold in torch.linspace(0, 1, GRID, dtype=torch.float64).tolist():
        answers = measure(tree, guesses, (limits >= threshold).sum(1))
        if answers is not None and (best is None or answers.distance < best[0]):
            best = (answers.distance, threshold)
    return None if best is None else round(best[1], 2)


def risk_coverage(tree: LabelTree, guesses: Guesses, rule: Rule) -> Curve | None:
    """The curve of ``confidence`` or ``both``; None if no known label is ever answered."""
    known = guesses.target >= 0
    limits, wrong = (
        column[known] for column in (reach(tree, guesses, rule), guesses.predicted != guesses.target)
    )
    order = limits.argsort(descending=True, stable=True)
    order = order[limits[order] >= 0]
    if not len(order):
        return None
    ordered = limits[order]
    last = torch.cat([ordered.diff() != 0, torch.ones(1, dtype=torch.bool)])
    answered = torch.arange(1, len(order) + 1, dtype=torch.float64)
    risk = wrong[order].double().cumsum(0) / answered
    return Curve(ordered[last], (answered / known.sum())[last], risk[last])


def known_path_accuracy(guesses: Guesses) -> float | None:
    """The share of images that are right at all levels whose label is known; None without any."""
    known = guesses.target >= 0
    labeled = known.any(1)
    right = ((guesses.predicted == guesses.target) | ~known).all(1) & labeled
    return int(right.sum()) / int(labeled.sum()) if labeled.any() else None


def _shared(tree: LabelTree, guesses: Guesses, depths: Tensor) -> Tensor:
    """How many levels an answer, with its ancestors by the tree, shares with the known label: int64 (n,)."""
    shared, node = torch.zeros_like(depths), torch.zeros_like(depths)
    for level in reversed(range(tree.levels)):
        if level + 1 < tree.levels:
            node = torch.tensor(tree.parents[level])[node]
        node = torch.where(depths == level + 1, guesses.predicted[:, level], node)
        shared += (depths > level) & (node == guesses.target[:, level])
    return shared


def summarize(results: Mapping[str, Answers | None]) -> dict[str, float]:
    """Names and numbers for ``results.json``: ``answer_RULE_accuracy``, ``answer_RULE_depth_levels``, ...

    Args:
        results: the answers by the name of the rule.
    """
    named: dict[str, float] = {}
    for rule, answers in results.items():
        if answers is not None:
            if not isnan(answers.accuracy):
                named[f"answer_{rule}_accuracy"] = answers.accuracy
            named[f"answer_{rule}_depth_levels"] = answers.depth
            named[f"answer_{rule}_distance_levels"] = answers.distance
            named |= {f"answer_{rule}_share_{depth}": share for depth, share in enumerate(answers.shares)}
    return named
