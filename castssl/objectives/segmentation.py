"""The loss of class maps: cross entropy over the labelled pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl import ranks

Mean = Literal["global", "process"]
"""Over which pixels :func:`masked_cross_entropy` divides."""


def masked_cross_entropy(logits: Tensor, target: Tensor, mean: Mean = "global") -> Tensor:
    """Cross entropy over the labelled pixels, for gradients that are averaged over the processes.

    With ``"global"`` the denominator is the number of labelled pixels of all processes over the number of
    processes: the mean of the processes' losses and of their gradients is that of one process with all the
    images.  Each process must call this equally often, as the counts are all-reduced.  With ``"process"``
    each process divides by its own count, as in the code released with CAST, so that a pixel weighs more
    where fewer are labelled.  mmsegmentation divides by all pixels, also those without a label, unless
    ``avg_non_ignore`` is set.

    Args:
        logits: float (B, C, ...), in the last axes of the shape of ``target``.
        target: int64 (B, ...), each a class or -1, which is unknown and does not count.
        mean: ``"global"`` or ``"process"``.

    Returns:
        float32 scalar with gradient; 0, with zero gradients, if nothing is labelled.

    Raises:
        ValueError: if dtype or shapes do not fit, or ``mean`` is unknown.
    """
    if target.dtype != torch.int64:
        raise ValueError(f"expected a target of torch.int64, got {target.dtype}")
    if logits.dim() < 2 or (len(logits), *logits.shape[2:]) != tuple(target.shape):
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} and a target of shape {tuple(target.shape)}: expected"
            " (B, C, ...) and (B, ...); resize the logits to the target's size"
        )
    if mean not in ("global", "process"):
        raise ValueError(f"mean: got {mean!r}, expected 'global' or 'process'")
    count = (target != -1).sum()
    share = ranks.mean(count) if mean == "global" else count
    total = F.cross_entropy(logits.float(), target, ignore_index=-1, reduction="sum")
    return total / torch.where(share > 0, share, 1)
