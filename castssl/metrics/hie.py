"""Finest classes corrected by the probabilities of their parents: hierarchical ensembles (HiE).

Test-Time Amendment with a Coarse Classifier for Fine-Grained Classification (NeurIPS 2023),
https://arxiv.org/abs/2302.00368.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from castssl.labels import LabelTree


def hie(logits: Sequence[Tensor], tree: LabelTree) -> list[Tensor]:
    """Log-probabilities (B, C) of each level, where each class is multiplied by its parent.

    p(c) becomes proportional to p(c) p(parent(c)), both the softmax of their own level.  Only direct parents
    count, and as their own level gave them, not amended by their parents: with three levels the coarsest does
    not reach the finest.  The coarsest level stays as it is.  The classes of an image may still not form
    a path of the tree, since each level chooses by itself.

    Args:
        logits: float (B, C) of each level, coarse to fine.
        tree: the label tree.

    Returns:
        float32 (B, C) of each level; the exponentials of a row sum to 1.

    Raises:
        ValueError: if the logits are not those of the tree's classes.
    """
    widths = tuple(scores.shape[-1] for scores in logits)
    if widths != tree.sizes:
        raise ValueError(f"hie: expected logits of {tree.sizes} classes, coarse to fine, got {widths}")
    own_level = [scores.float().log_softmax(1) for scores in logits]
    amended = own_level[:1]
    for above, below, parents in zip(own_level, own_level[1:], tree.parents, strict=False):
        # Sums of logarithms: the product of two small probabilities would be lost in float32.
        parent = above[:, torch.tensor(parents, device=above.device)]
        amended.append((below + parent).log_softmax(1))
    return amended
