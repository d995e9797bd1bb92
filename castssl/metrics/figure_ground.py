"""Figure and ground by attention: the tokens with most of the attention's mass against a mask.

CAST, https://arxiv.org/abs/2210.00314, appendix A.5 and G.4, which follow DINO,
https://arxiv.org/abs/2104.14294: the figure is the tokens that hold 60 % of the class token's attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from castssl.metrics.partition import shared_pixels

MASS = 0.6
"""The share of the attention that the figure holds (CAST)."""


def figure(attention: Tensor, mass: float = MASS) -> Tensor:
    """The smallest set of tokens that holds at least a share of the attention; ties go to the first token.

    Args:
        attention: float (..., N), 0 or more; it need not sum to 1.
        mass: the share, in (0, 1].

    Returns:
        bool (..., N), True on the figure; a token without attention is never on it.

    Raises:
        ValueError: if the share is out of range.
    """
    if not 0 < mass <= 1:
        raise ValueError(f"the figure's share of the attention: got {mass}, expected above 0 and up to 1")
    values, order = attention.double().sort(dim=-1, descending=True, stable=True)
    before = values.cumsum(-1) - values
    kept = (before < mass * values.sum(-1, keepdim=True)) & (values > 0)
    return torch.zeros_like(kept).scatter(-1, order, kept)


def figure_ground_iou(tokens: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
    """IoU of the figure and of the ground, for each of A sets of tokens.

    Args:
        tokens: bool (B, A, N), True for the tokens on the figure.
        labels: integer (B, H, W), the token of each pixel; a pixel with a negative label is ground.
        truth: integer or bool (B, H, W), 1 on the figure and 0 on the ground; pixels with a negative number
            are left out.

    Returns:
        float32 (B, A, 2): IoU of the figure and of the ground; not a number for one that the image lacks.

    Raises:
        ValueError: if the maps differ in shape, or a label or a true number is too large.
    """
    shared = shared_pixels("figure_ground_iou", labels.long().clamp(min=-1) + 1, truth.long())
    images, chosen, count = tokens.shape
    if shared.shape[1] > count + 2 or shared.shape[2] > 3:
        raise ValueError(
            f"figure_ground_iou: expected labels below {count} and a truth of 0 and 1, got labels up to"
            f" {shared.shape[1] - 3} and a truth up to {shared.shape[2] - 2}"
        )
    pixels = torch.zeros(images, count + 1, 2, dtype=torch.float64, device=labels.device)
    pixels[:, : shared.shape[1] - 1, : shared.shape[2] - 1] = shared[:, 1:, 1:]
    pixels = pixels.flip(2)  # True figure, then true ground.
    on_figure = torch.cat([tokens.new_zeros(images, chosen, 1), tokens], 2).double() @ pixels
    true, total = pixels.sum(1)[:, None], pixels.sum((1, 2))[:, None]
    inside = torch.stack([on_figure[..., 0], true[..., 1] - on_figure[..., 1]], 2)
    claimed = torch.stack([on_figure.sum(2), total - on_figure.sum(2)], 2)
    return torch.where(true > 0, inside / (true + claimed - inside), torch.nan).float()
