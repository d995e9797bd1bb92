"""Barlow Twins: each feature agrees between the views and says what no other feature says.

Barlow Twins: Self-Supervised Learning via Redundancy Reduction, https://arxiv.org/abs/2103.03230, equation 1.
"""

from __future__ import annotations

from lightly.loss.barlow_twins_loss import BarlowTwinsLoss
from lightly.models.modules.heads import BarlowTwinsProjectionHead

from castssl.contracts import Encoder
from castssl.types import LabelTree
from castssl_lightly.siamese import Joint


class BarlowTwins(Joint):
    """Bring the cross-correlation of two views' embeddings close to the identity.

    Each process normalises its own images; the cross-correlation is the mean over all processes.

    Args:
        encoder: what is pretrained.
        labels: the data set's label tree, unused.
        weight: lambda, of the entries off the diagonal (section 2.2).
        hidden: width of the projector's two hidden layers (section 2.2).
        out: width of the embedding (section 2.2).
    """

    least = 2

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree | None = None,
        *,
        weight: float = 0.005,
        hidden: int = 8192,
        out: int = 8192,
    ) -> None:
        projector = BarlowTwinsProjectionHead(encoder.dim, hidden, out)
        super().__init__(encoder, projector, BarlowTwinsLoss(weight, gather_distributed=True))
