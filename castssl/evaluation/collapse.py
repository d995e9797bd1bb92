"""How the features of held-out images and their embeddings spread, and a warning if these collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import ClassVar

import torch

from castssl.evaluation.features import Features
from castssl.evaluation.held_out import Evaluator, Forward, ImageBatch, Subject, note, spread
from castssl.metrics.collapse import dead_dimensions, deviations, effective_rank, uniformity

IMAGES = 2048
"""At most so many held-out images take part: DINO's embeddings have 65,536 dimensions."""
COLLAPSED = 0.1
"""A run has collapsed if the mean deviation of its embeddings falls below this and below half of what it was.

New weights are below it, too, until training spreads their features."""


@dataclass(eq=False)
class Collapse(Evaluator):
    """Signs of collapse, of the center views of held-out images: :mod:`castssl.metrics.collapse`.

    ``effective_rank_dims`` is of the features.  ``embedding_rank_dims``, ``dead_dimensions`` and
    ``uniformity_nats`` are of what the loss compares, if the subject has a projector, else of the features.
    The alignment is :class:`castssl.evaluation.matching.Matching`'s, which has two views of an image.

    A run that is resumed warns as if it had not been stopped, if :meth:`castssl.training.run.Run.follow` was
    given this evaluator.

    Args:
        measured_with: the evaluation settings, as :func:`castssl.config.measured_with` returns them.  A
            resumed run with other settings, such as other held-out images, does not compare its deviations
            with those before.

    Attributes:
        stopped: "", as training does not end.
    """

    title: ClassVar[str] = "collapse"
    measured_with: str = field(default="", kw_only=True)
    stopped: str = field(default="", init=False, repr=False)
    _own: torch.Tensor = field(init=False, repr=False)
    _features: Features = field(init=False, repr=False)
    _embeddings: Features = field(init=False, repr=False)
    _most: float = field(default=0.0, init=False, repr=False)
    _warned: bool = field(default=False, init=False, repr=False)

    def images(self) -> Sequence[int] | None:
        """At most :data:`IMAGES`, evenly spread."""
        return spread(len(self._data.held_out or ()), IMAGES)

    def begin(self, subject: Subject) -> None:
        """Forget earlier features."""
        self._own = torch.tensor(self.images())
        self._features, self._embeddings = Features(self._data.device), Features(self._data.device)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Keep the features and the embeddings of its images in a batch, which may have others."""
        own = torch.isin(batch.positions, self._own)
        index = own.nonzero().flatten()
        labels, positions = batch.target[index.to(batch.target.device)], batch.positions[index]
        for rows, values in (
            (self._features, forward.feature(batch.views[0])),
            (self._embeddings, forward.embedding(batch.views[0])),
        ):
            rows.add(values[index.to(values.device)], labels, positions)

    def result(self, subject: Subject) -> dict[str, float]:
        """The signs; a warning once if the embeddings have collapsed."""
        features, embeddings = self._features.gather()[0], self._embeddings.gather()[0]
        results = {
            "effective_rank_dims": effective_rank(features),
            "embedding_rank_dims": effective_rank(embeddings),
            "dead_dimensions": dead_dimensions(embeddings),
            "uniformity_nats": uniformity(embeddings),
        }
        self._warn(float(deviations(embeddings).mean()))
        return {name: value for name, value in results.items() if not isnan(value)}

    def state_dict(self) -> dict[str, float | str]:
        """The largest deviation so far, whether there was a warning, and the evaluation settings."""
        return {"most": self._most, "warned": self._warned, "measured_with": self.measured_with}

    def load_state_dict(self, state: Mapping[str, float | str]) -> None:
        """Continue from :meth:`state_dict`."""
        self._warned = bool(state["warned"])
        # Earlier versions did not keep the settings; they may be the same.
        if state.get("measured_with", self.measured_with) == self.measured_with:
            self._most = float(state["most"])

    def _warn(self, deviation: float) -> None:
        self._most = max(self._most, deviation)
        if deviation < min(COLLAPSED, self._most / 2) and not self._warned:
            self._warned = True
            note(
                f"the run has collapsed: the deviation of its embeddings fell from {self._most:.2f} to"
                f" {deviation:.2f} (1: in all directions alike; 0: one embedding for all images); stop it,"
                " and lower --lr or change the objective's options"
            )
