"""Objectives whose targets come from a momentum encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightly.models.utils import update_momentum

from castssl.contracts import Model
from castssl.errors import ConfigError
from castssl.objectives.moco import Projected
from castssl_lightly.siamese import Siamese


class MomentumObjective(Siamese):
    """An encoder and a projector, and momentum copies of both, which get no gradient.

    Args:
        model: what is trained.
        momentum_model: copies of its encoder and projector.
        momentum: the share of its values that the momentum model keeps in a step, at the start; it
            rises to 1 along half a cosine.

    Raises:
        ConfigError: if ``momentum`` is not in [0, 1].
    """

    def __init__(self, model: Projected, momentum_model: Projected, momentum: float) -> None:
        super().__init__(model)
        if not 0 <= momentum <= 1:
            raise ConfigError(f"momentum is a share: expected 0 to 1, got {momentum}")
        self.momentum_model = momentum_model
        self.momentum_model.requires_grad_(False)
        self.momentum = momentum

    def after_step(self, progress: float) -> None:
        """Update the momentum model; the coefficient is that of ``progress``."""
        m = self.coefficient(progress)
        update_momentum(self.model.encoder, self.momentum_model.encoder, m)
        update_momentum(self.model.projector, self.momentum_model.projector, m)

    def coefficient(self, progress: float) -> float:
        """The momentum at a share of training."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2

    def branches(self) -> Mapping[str, Model]:
        """The trained model as ``base``, and its momentum copy as ``momentum``."""
        return {"base": self.model, "momentum": self.momentum_model}
