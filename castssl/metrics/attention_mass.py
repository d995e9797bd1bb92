"""Where attention lies: how much of it falls on the pixels of each class."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_mass(weights: Tensor, labels: Tensor, classes: Tensor, count: int) -> Tensor:
    """The share of attention on the pixels of each class; a token's is spread evenly over its pixels.

    With the mask of an object as the class, this is the relevance mass accuracy of Arras, Osman & Samek,
    "CLEVR-XAI", 2022, https://arxiv.org/abs/2003.07258, section 4.2; with a box in place of the mask, the
    energy-based pointing game of Score-CAM, https://arxiv.org/abs/1910.01279, section 4.3.

    Args:
        weights: float (B, A, N), 0 or more: A distributions of attention over N tokens.
        labels: integer (B, H, W), the token of each pixel; negative for none.  Attention to a token without
            pixels is left out of the total.
        classes: integer (B, H, W), the class of each pixel, below ``count``; negative for none of them.
        count: C, the number of classes.

    Returns:
        float32 (B, A, C), rows sum to at most 1; 0 where no attention lies on a pixel.

    Raises:
        ValueError: if the shapes differ, or a label or a class is too large.
    """
    images, _, tokens = weights.shape
    if labels.shape != classes.shape or labels.dim() != 3 or len(labels) != images:
        raise ValueError(
            f"attention_mass: expected weights (B, A, N) and two maps (B, H, W) of one shape, got"
            f" {tuple(weights.shape)}, {tuple(labels.shape)} and {tuple(classes.shape)}"
        )
    if labels.numel() and (int(labels.max()) >= tokens or int(classes.max()) >= count):
        raise ValueError(
            f"attention_mass: expected labels below {tokens} and classes below {count}, got labels up to"
            f" {int(labels.max())} and classes up to {int(classes.max())}"
        )
    slots = (labels.long().clamp(min=-1) + 1) * (count + 1) + classes.long().clamp(min=-1) + 1
    pixels = torch.zeros(images, (tokens + 1) * (count + 1), dtype=torch.float64, device=weights.device)
    pixels.scatter_add_(1, slots.flatten(1), pixels.new_ones(images, slots[0].numel()))
    pixels = pixels.view(images, tokens + 1, count + 1)[:, 1:]
    seen = pixels.sum(2, keepdim=True)
    mass = weights.double() @ (pixels / seen.clamp(min=1))
    total = mass.sum(2, keepdim=True)
    return torch.where(total > 0, mass[..., 1:] / total.clamp(min=1e-300), 0.0).float()
