"""Objectives whose targets come from a momentum encoder."""

from __future__ import annotations

import math
from typing import Literal, cast

from lightly.models.utils import update_momentum
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.types import View
from castssl_lightly.siamese import Siamese, feature


class MomentumObjective(Siamese):
    """An encoder and a projector, and momentum copies of both, which get no gradient.

    Args:
        encoder: what is pretrained.
        projector: float (B, D) -> (B, E).
        momentum_model: copies of both, as ``encoder`` and ``projector``.
        momentum: the share of its values that the momentum model keeps in a step, at the start; it
            rises to 1 along half a cosine.

    Raises:
        ConfigError: if ``momentum`` is not in [0, 1].
    """

    def __init__(
        self,
        encoder: Encoder,
        projector: nn.Module,
        momentum_model: dict[str, nn.Module],
        momentum: float,
    ) -> None:
        super().__init__(encoder)
        if not 0 <= momentum <= 1:
            raise ConfigError(f"momentum is a share: expected 0 to 1, got {momentum}")
        self.projector = projector
        self.momentum_model = nn.ModuleDict(momentum_model)
        self.momentum_model.requires_grad_(False)
        self.momentum = momentum

    def after_step(self, progress: float) -> None:
        """Update the momentum model; the coefficient is that of ``progress``."""
        m = self.coefficient(progress)
        update_momentum(self.encoder, self.momentum_model["encoder"], m)
        update_momentum(self.projector, self.momentum_model["projector"], m)

    def coefficient(self, progress: float) -> float:
        """The momentum at a share of training."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2

    def branch(self, name: Literal["base", "momentum"]) -> Encoder:
        """The trained encoder or the momentum encoder.

        Raises:
            ConfigError: if there is no such branch.
        """
        if name not in {"base", "momentum"}:
            raise ConfigError(f"{type(self).__name__} has the branches base and momentum, not {name!r}")
        return self.encoder if name == "base" else cast(Encoder, self.momentum_model["encoder"])

    def project(self, view: View) -> Tensor:
        """The trained embedding of a view: float (B, E)."""
        rows: Tensor = self.projector(feature(self.encoder, view))
        return rows

    def teach(self, view: View) -> Tensor:
        """The momentum embedding of a view: float (B, E); call it without gradient."""
        rows: Tensor = self.momentum_model["projector"](feature(self.momentum_model["encoder"], view))
        return rows
