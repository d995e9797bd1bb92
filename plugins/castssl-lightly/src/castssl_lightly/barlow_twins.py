"""Barlow Twins: each feature agrees between the views and says what no other feature says.

Barlow Twins: Self-Supervised Learning via Redundancy Reduction, https://arxiv.org/abs/2103.03230, equation 1.
"""

from __future__ import annotations

import torch
from lightly.loss.barlow_twins_loss import BarlowTwinsLoss
from lightly.models.modules.heads import BarlowTwinsProjectionHead
from lightly.utils.dist import gather
from torch import Tensor

from castssl import distributed
from castssl.contracts import Encoder
from castssl.labels import LabelTree
from castssl_lightly.siamese import Joint


class BarlowTwins(Joint):
    """Bring the cross-correlation of two views' embeddings close to the identity.

    Embeddings are normalized by the statistics of all processes' images, and the cross-correlation is that of
    all of them, so that loss and gradient are those of one process with the whole batch.

    Args:
        encoder: what is pretrained.
        labels: the data set's label tree, unused.
        weight: lambda, of the entries off the diagonal (section 2.2).
        hidden: width of the projector's two hidden layers (section 2.2).
        out: width of the embedding (section 2.2).
        per_process: each process normalizes its own images, and the cross-correlation is the mean over the
            processes: less to exchange, and another gradient.
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
        per_process: bool = False,
    ) -> None:
        projector = BarlowTwinsProjectionHead(encoder.dim, hidden, out)
        loss = BarlowTwinsLoss(weight, gather_distributed=True) if per_process else _Whole(weight)
        super().__init__(encoder, projector, loss)


class _Whole(BarlowTwinsLoss):  # type: ignore[misc]
    """lightly's loss of the embeddings of all processes, through which gradients flow."""

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        if distributed.world() > 1:
            z_a, z_b = (torch.cat(gather(rows.contiguous())) for rows in (z_a, z_b))
        loss: Tensor = super().forward(z_a, z_b)
        return loss
