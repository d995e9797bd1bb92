"""Losses of the known entries of many labels: binary cross entropy, and an asymmetric loss.

Asymmetric Loss For Multi-Label Classification, https://arxiv.org/abs/2009.14119.
"""

from __future__ import annotations

from typing import Literal

import torch
from timm.loss.asymmetric_loss import AsymmetricLossMultiLabel
from torch import Tensor
from torch.nn import functional as F

from castssl import distributed

Reduction = Literal["mean", "sum"]
"""Over which entries :func:`reduce` divides."""
ABSENT = -1e4
"""A logit of the probability 0, also in float32."""


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The sum of the binary cross entropies over the known entries: a float32 scalar.

    Args:
        logits: float (B, C).
        target: float (B, C): 1 or 0, or -1 for an unknown entry, which adds nothing.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), target.clamp(min=0), reduction="none")
    return losses.where(target >= 0, 0).sum()


def asymmetric(
    logits: Tensor, target: Tensor, *, gamma_pos: float = 1.0, gamma_neg: float = 4.0, clip: float = 0.05
) -> Tensor:
    """The sum of timm's asymmetric losses over the known entries: a float32 scalar.

    With the probability p of a label that is present the loss is ``-(1 - p)^gamma_pos log p``, and of an
    absent one ``-q^gamma_neg log(1 - q)`` with ``q = max(p - clip, 0)`` (equations 4 to 7).  The defaults are
    timm's.

    Args:
        logits: float (B, C).
        target: as in :func:`binary_cross_entropy`.
        gamma_pos: how much less a present label counts, the likelier it is found.
        gamma_neg: how much less an absent label counts, the less likely it is found.
        clip: the probability below which an absent label adds nothing.
    """
    loss = AsymmetricLossMultiLabel(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
    known = target >= 0
    # timm has no weight of an entry.  An absent label of probability 0 has neither loss nor gradient.
    scores = logits.float().where(known, ABSENT)
    # As one image: newer versions of timm divide by the number of images, older ones do not.
    total: Tensor = loss(scores.reshape(1, -1), target.clamp(min=0).reshape(1, -1))
    return total


def reduce(total: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """A sum over known entries as a loss whose gradients are averaged over the processes.

    Args:
        total: scalar of this process.
        target: as in :func:`binary_cross_entropy`.
        reduction: ``"mean"`` divides by the number of known entries of all processes over the number of
            processes: the mean of the processes' losses is that of one process with all the images.  Each
            process must call this equally often.  ``"sum"`` divides by the images of this process alone, as
            timm does: about C times as much.
    """
    if reduction == "sum":
        return total / len(target)
    count = distributed.mean((target >= 0).sum())
    return total / torch.where(count > 0, count, 1)
