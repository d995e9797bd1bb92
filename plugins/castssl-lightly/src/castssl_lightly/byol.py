"""BYOL: one view predicts the momentum embedding of the other; there are no negative pairs.

Bootstrap your own latent, https://arxiv.org/abs/2006.07733, equation 2.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from lightly.loss.negative_cosine_similarity import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead

from castssl.contracts import Encoder
from castssl.labels import LabelTree
from castssl.objectives.moco import Predicted, Projected
from castssl.types import Batch, Outcome
from castssl_lightly.momentum import MomentumObjective
from castssl_lightly.siamese import in_float32, spread


class BYOL(MomentumObjective):
    """Predict the momentum embedding of the other view, in both directions.

    The batch norm of the momentum model runs in training mode, as in the released code.

    Args:
        encoder: what is pretrained.
        labels: the data set's label tree, unused.
        momentum: tau at the start; rises to 1 along half a cosine (implementation details).
        hidden: width of the hidden layers of projector and predictor (likewise).
        out: width of the embedding (likewise).

    Raises:
        ConfigError: if ``momentum`` is not in [0, 1].
    """

    model: Predicted

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree | None = None,
        *,
        momentum: float = 0.996,
        hidden: int = 4096,
        out: int = 256,
    ) -> None:
        projector = BYOLProjectionHead(encoder.dim, hidden, out)
        momentum_model = Projected(deepcopy(encoder), projector=deepcopy(projector))
        predictor = BYOLPredictionHead(out, hidden, out)
        super().__init__(
            Predicted(encoder, projector=projector, predictor=predictor), momentum_model, momentum
        )
        self.criterion = NegativeCosineSimilarity()

    def forward(self, batch: Batch) -> Outcome:
        """The squared distance of unit vectors, the sum of both directions: 0 to 8; and the spread.

        Raises:
            ValueError: unless the batch has two views of floating-point images.
        """
        first, second = self.pair(batch)
        p1, p2 = (self.model.predictor(self.model.project(view)) for view in (first, second))
        with torch.no_grad():
            z1, z2 = self.momentum_model.project(first), self.momentum_model.project(second)
        # |a - b|^2 = 2 - 2 cos for unit vectors, once for each direction.
        loss = 4 + 2 * (in_float32(self.criterion, p1, z2) + in_float32(self.criterion, p2, z1))
        return Outcome(loss, {"loss": loss.detach(), "spread": spread(z1)})
