"""Means over the images whose label reaches a level, for label paths of which some are known in part.

Free-Grained Hierarchical Visual Recognition (CVPR 2026), https://arxiv.org/abs/2510.14737: each level's cross
entropy is a mean over the images that have that label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl import distributed
from castssl.errors import ConfigError

LevelMean = Literal["batch", "labeled", "rank"]
"""Over which images :func:`level_means` divides."""


def check_level_mean(level_mean: str) -> None:
    """Refuse what is no :data:`LevelMean`.

    Raises:
        ConfigError: naming those that there are.
    """
    if level_mean not in get_args(LevelMean):
        expected = ", ".join(get_args(LevelMean))
        raise ConfigError(f"level_mean: got {level_mean!r}, expected one of {expected}")


def level_means(losses: Sequence[Tensor], known: Sequence[Tensor], level_mean: LevelMean) -> Tensor:
    """The mean of each of K losses over the images that take part in it.

    With ``"labeled"`` the denominator is the sum of the weights in all processes over the number of
    processes: the mean of the processes' losses and of their gradients is that of one process with all the
    images.  Each process must call this equally often, as the sums are all-reduced, all K at once.  With
    ``"rank"`` each process divides by its own sum, as in the released code, so an image weighs more
    where fewer are labeled.  With ``"batch"`` the denominator is the number of images, labeled or not, so
    that a level that few images reach has a small loss.  Each part of an accumulated batch has denominators
    of its own.

    Args:
        losses: K times float32 (B,): each image's loss times its weight, thus 0 where that is 0.
        known: K times float32 (B,): each image's weight, its labeled share, in [0, 1].
        level_mean: ``"batch"``, ``"labeled"`` or ``"rank"``.

    Returns:
        Float32 (K,) with gradient; 0, with zero gradients, where no image takes part.
    """
    if level_mean == "batch":
        return torch.stack([each.mean() for each in losses])
    count = torch.stack([each.sum() for each in known]).detach()
    share = distributed.mean(count) if level_mean == "labeled" else count
    return torch.stack([each.sum() for each in losses]) / torch.where(share > 0, share, 1)


def soft_cross_entropies(logits: Tensor, target: Tensor) -> Tensor:
    """The cross entropy of each image with its soft target, times the labeled share: float32 (B,).

    Args:
        logits: float (B, C).
        target: float (B, C); a row sums to the labeled share of the image.
    """
    return (-target * F.log_softmax(logits, 1)).sum(1)


def accuracies(
    names: Sequence[str], logits: Sequence[Tensor], targets: Sequence[Tensor]
) -> dict[str, Tensor]:
    """For each target the share of the labeled images whose class comes first; not a number without any."""
    found = {}
    for name, scores, target in zip(names, logits, targets, strict=False):
        labeled = target.sum(1) > 0
        right = (scores.detach().argmax(1) == target.argmax(1)) & labeled
        found["accuracy" if len(targets) == 1 else f"accuracy_{name}"] = right.sum() / labeled.sum()
    return found
