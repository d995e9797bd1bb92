"""A momentum twin: it follows what is trained, and tells it what to predict."""

from __future__ import annotations

import math
from typing import Literal, cast

from lightly.models.utils import update_momentum
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.types import View
from castssl_lightly.siamese import Siamese, feature


class Taught(Siamese):
    """An encoder and a projector, and the twins of both, which no gradient reaches.

    Args:
        encoder: what is pretrained.
        projector: float (B, D) -> (B, E).
        twin: copies of both, as ``encoder`` and ``projector``.
        momentum: the share of itself that the twin keeps in a step, at the start; it rises to 1 along half
            a cosine.

    Raises:
        ConfigError: if ``momentum`` is no share.
    """

    def __init__(
        self, encoder: Encoder, projector: nn.Module, twin: dict[str, nn.Module], momentum: float
    ) -> None:
        super().__init__(encoder)
        if not 0 <= momentum <= 1:
            raise ConfigError(f"momentum is a share: expected 0 to 1, got {momentum}")
        self.projector = projector
        self.twin = nn.ModuleDict(twin)
        self.twin.requires_grad_(False)
        self.momentum = momentum

    def after_step(self, progress: float) -> None:
        """Move the twin; the coefficient is that of ``progress``."""
        m = self.coefficient(progress)
        update_momentum(self.encoder, self.twin["encoder"], m)
        update_momentum(self.projector, self.twin["projector"], m)

    def coefficient(self, progress: float) -> float:
        """The momentum at a share of training."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2

    def branch(self, name: Literal["base", "momentum"]) -> Encoder:
        """The encoder that is trained, or its twin.

        Raises:
            ConfigError: if there is no such branch.
        """
        if name not in {"base", "momentum"}:
            raise ConfigError(f"{type(self).__name__} has the branches base and momentum, not {name!r}")
        return self.encoder if name == "base" else cast(Encoder, self.twin["encoder"])

    def project(self, view: View) -> Tensor:
        """What is trained, on a view: float (B, E)."""
        rows: Tensor = self.projector(feature(self.encoder, view))
        return rows

    def teach(self, view: View) -> Tensor:
        """The twin on a view: float (B, E), to be called without gradient."""
        rows: Tensor = self.twin["projector"](feature(self.twin["encoder"], view))
        return rows
