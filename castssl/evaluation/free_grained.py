"""Answers that stop where the classes are sure: how often they are right, and how deep they go.

Free-Grained Hierarchical Visual Recognition (CVPR 2026), https://arxiv.org/abs/2510.14737.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from castssl.evaluation.held_out import Evaluator, Forward, ImageBatch, Subject, indexed
from castssl.evaluation.label_paths import check_levels, frequent_path
from castssl.metrics.free_grained import (
    Curve,
    Guesses,
    answer_depths,
    choose_threshold,
    guess,
    known_path_accuracy,
    measure,
    risk_coverage,
    summarize,
)

CONFIDENCE = 0.9
"""The paper's threshold."""


@dataclass(eq=False)
class FreeGrained(Evaluator):
    """Answers by the paper's two rules, and by both with a threshold chosen on half of the held-out images.

    The rules are those of :func:`castssl.metrics.free_grained.answer_depths`: ``consistency``;
    ``confidence`` with the threshold 0.9; and ``chosen``, which is ``both`` with the threshold of
    :func:`castssl.metrics.free_grained.choose_threshold` on one half.  A hash of the images' names parts the
    halves.  All three are measured on the other half, so that they are of the same images.

    ``answer_RULE_accuracy``, ``answer_RULE_depth_levels``, ``answer_RULE_distance_levels`` and
    ``answer_RULE_share_0``, ... are the fields of :class:`castssl.metrics.free_grained.Answers`;
    ``answer_threshold`` is the chosen threshold.  ``fpa_known`` and ``risk_area_confidence``,
    ``risk_area_both``, the areas under :attr:`curves`, are of all held-out images.  Nothing is measured if
    the images have fewer than two label levels.

    Attributes:
        curves: risk and coverage by rule, of the latest evaluation.
    """

    title: ClassVar[str] = "answers that stop"
    curves: dict[str, Curve] = field(default_factory=dict, init=False, repr=False)

    def begin(self, subject: Subject) -> None:
        """Start anew."""
        super().begin(subject)
        self.curves = {}

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Keep the classes of a batch, and their probabilities.

        Raises:
            ConfigError: if the subject learned other levels or classes than the images have.
        """
        if self._data.tree.levels < 2:
            return
        logits = forward.logits(batch.views[0])
        check_levels(logits, self._data.tree)
        found = guess(self._data.tree, logits, batch.target)
        self._rows.add(found.probability, torch.cat([batch.target, found.predicted], 1), batch.positions)

    def result(self, subject: Subject) -> dict[str, float]:
        """The results over all processes."""
        if self._data.tree.levels < 2:
            return {}
        levels = self._data.tree.levels
        probability, numbers = self._rows.gather()
        results, self.curves = self._measured(Guesses(numbers[:, levels:], probability, numbers[:, :levels]))
        return results

    def majority(self) -> dict[str, float]:
        """The most frequent path as the answer to all images; its probabilities are its classes' shares."""
        labels = self._data.labels()
        if self._data.tree.levels < 2 or (path := frequent_path(labels)) is None:
            return {}
        known = labels >= 0
        share = (labels == path).sum(0) / known.sum(0)
        return self._measured(Guesses(path.expand_as(labels), share.expand(labels.shape), labels))[0]

    def _measured(self, guesses: Guesses) -> tuple[dict[str, float], dict[str, Curve]]:
        tree, images = self._data.tree, indexed(self._data.held_out)
        first = first_half([images.name(position) for position in range(len(guesses.target))])
        threshold, reported = choose_threshold(tree, guesses.take(first), "both"), guesses.take(~first)
        depths = {
            "consistency": answer_depths(tree, reported, "consistency"),
            "confidence": answer_depths(tree, reported, "confidence", CONFIDENCE),
        }
        found = {rule: risk_coverage(tree, guesses, rule) for rule in ("confidence", "both")}
        curves = {rule: curve for rule, curve in found.items() if curve is not None}
        known = known_path_accuracy(guesses)
        results = {} if known is None else {"fpa_known": known}
        results |= {f"risk_area_{rule}": curve.area for rule, curve in curves.items()}
        if threshold is not None:
            depths["chosen"] = answer_depths(tree, reported, "both", threshold)
            results["answer_threshold"] = threshold
        results |= summarize({rule: measure(tree, reported, ends) for rule, ends in depths.items()})
        return results, curves


def first_half(names: Sequence[str]) -> Tensor:
    """Which images choose the threshold, by a hash of their names alone: bool (n,), about half of them."""
    hashes = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=1) for name in names)
    return torch.tensor([one.digest()[0] % 2 == 0 for one in hashes], dtype=torch.bool)
