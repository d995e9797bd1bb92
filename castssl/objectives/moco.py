"""MoCo v3: contrastive learning with two views of each image and a momentum encoder.

An Empirical Study of Training Self-Supervised Vision Transformers, https://arxiv.org/abs/2104.02057,
Algorithm 1; CAST, Table 11.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise

import torch
from lightly.models.modules.heads import ProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor, nn
from torch.nn import functional as F

from castssl import distributed
from castssl.contracts import Encoder, Model, Objective
from castssl.labels import LabelTree
from castssl.types import Batch, Outcome, View


def similarities(q: Tensor, k: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cosines of this rank's queries with all ranks' keys over the temperature, and each query's own column.

    Args:
        q: float (B, D), with gradient.
        k: float (B, D), no gradient flows to it.
        temperature: T.

    Returns:
        logits float32 (B, world * B), and int64 (B,).
    """
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(q.dtype, torch.float32)
        keys = distributed.gather(F.normalize(k.to(wide), dim=1))
        logits = F.normalize(q.to(wide), dim=1) @ keys.T / temperature
    positives = torch.arange(len(q), device=q.device) + distributed.first_row(q)
    return logits, positives


def contrast(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """One direction of the contrastive loss, times 2 T as in the released code: a float32 scalar."""
    return 2 * temperature * F.cross_entropy(*similarities(q, k, temperature))


class Projected(Model):
    """An encoder and a projector, float (B, D) -> (B, E)."""

    projector: nn.Module

    def embed(self, feature: Tensor) -> Tensor:
        """The projection of class tokens (B, D): float (B, E)."""
        embedding: Tensor = self.projector(feature)
        return embedding

    def project(self, view: View) -> Tensor:
        """The embedding of a view: float (B, E)."""
        return self.embed(self.feature(view))


class Predicted(Projected):
    """An encoder, a projector, and a predictor, float (B, E) -> (B, E)."""

    predictor: nn.Module


class MoCoV3(Objective):
    """An encoder with projector and predictor, and momentum copies of encoder and projector.

    :meth:`after_step` updates the copies; their batch norm and dropout run in training mode, as in the
    released code.  Reads the class token of the encoder's last stage.

    Args:
        encoder: what is pretrained.
        labels: the data set's label tree, unused.
        temperature: T.
        momentum: the coefficient of the momentum copies at the start.
        momentum_rise: let it rise to 1 along a cosine (the released scripts); False keeps it constant, as a
            reading of Table 11 would have it.
        hidden: width of the hidden layers of projector and predictor.
        out: width of the embedding.
    """

    views = 2
    model: Predicted

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree | None = None,
        *,
        temperature: float = 0.2,
        momentum: float = 0.99,
        momentum_rise: bool = True,
        hidden: int = 4096,
        out: int = 256,
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is a share: expected 0 to 1, got {momentum}")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature, self.momentum, self.momentum_rise = temperature, momentum, momentum_rise
        projector, predictor = mlp_head((encoder.dim, hidden, hidden, out)), mlp_head((out, hidden, out))
        self.model = Predicted(encoder, projector=projector, predictor=predictor)
        self.momentum_model = Projected(deepcopy(encoder), projector=deepcopy(projector))
        self.momentum_model.requires_grad_(False)

    def forward(self, batch: Batch) -> Outcome:
        """The symmetric loss, and how often a query finds its own key first (``match``).

        Raises:
            ValueError: unless the batch has two views of floating-point images.
        """
        first, second = self._two(batch)
        q1, q2 = self._query(first), self._query(second)
        with torch.no_grad():
            k1, k2 = self.momentum_model.project(first), self.momentum_model.project(second)
        # Not `contrast` for both: `match` needs the logits, too, and each call gathers from all ranks.
        logits, positives = similarities(q1, k2, self.temperature)
        other = contrast(q2, k1, self.temperature)
        loss = 2 * self.temperature * F.cross_entropy(logits, positives) + other
        match = (logits.detach().argmax(1) == positives).float().mean()
        return Outcome(loss, {"loss": loss.detach(), "match": match})

    def after_step(self, progress: float) -> None:
        """Update the momentum copies; the coefficient is that of ``progress``."""
        m = self.coefficient(progress)
        update_momentum(self.model.encoder, self.momentum_model.encoder, m)
        update_momentum(self.model.projector, self.momentum_model.projector, m)

    def coefficient(self, progress: float) -> float:
        """The momentum coefficient at a share of training."""
        if not self.momentum_rise:
            return self.momentum
        return 1 - (1 - self.momentum) / 2 * (1 + math.cos(math.pi * progress))

    def branches(self) -> Mapping[str, Model]:
        """The trained model as ``base``, and its momentum copy as ``momentum``."""
        return {"base": self.model, "momentum": self.momentum_model}

    def _query(self, view: View) -> Tensor:
        q: Tensor = self.model.predictor(self.model.project(view))
        return q

    def _two(self, batch: Batch) -> tuple[View, View]:
        if len(batch.views) != self.views:
            raise ValueError(f"MoCo v3 needs {self.views} views of each image, got {len(batch.views)}")
        for view in batch.views:
            if not view.image.is_floating_point():
                raise ValueError(f"expected float images, got {view.image.dtype}; call to_views first")
        first, second = batch.views
        return first, second


def mlp_head(widths: tuple[int, ...]) -> nn.Module:
    """Linear layers without bias, batch norm after each; ReLU between; the last norm has no parameters."""
    *hidden, last = pairwise(widths)
    layers = [(a, b, nn.BatchNorm1d(b), nn.ReLU(True)) for a, b in hidden]
    return ProjectionHead([*layers, (*last, nn.BatchNorm1d(last[1], affine=False), None)])  # type: ignore[no-any-return]
