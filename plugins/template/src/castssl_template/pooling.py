"""Soft assignment of tokens to the heaviest among them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from castssl.contracts import Pooling
from castssl.pooling.arithmetic import check_size, gather, highest, masked_mean, weighted_mean
from castssl.types import Pooled, Tokens


class TemplatePooling(Pooling):
    """The heaviest tokens become centroids; each token joins them by cosine in a learned space.

    Vectors of the space are compared about their mean: pooled tokens are alike, and their plain cosines would
    differ by little more than rounding.  Of equally heavy tokens the first ones are taken.

    Args:
        dim: token width D.
        sharpness: factor on the cosine; the higher, the harder the assignment.
    """

    def __init__(self, dim: int, *, sharpness: float = 5.0) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.space = nn.Linear(dim, dim, bias=False)  # A bias would cancel.

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool into ``size`` means; the class token stays as it is."""
        check_size(tokens, size)
        valid = tokens.mass > 0
        # Not topk: of equal masses, which are common, it takes others on another device or in ONNX.
        index = highest(tokens.mass, size)
        present = valid.gather(1, index)
        space = self.space(tokens.x).float()
        space = F.normalize(space - masked_mean(space, valid), dim=-1)
        cosine = (space @ gather(space, index).transpose(1, 2)).float()
        logits = (self.sharpness * cosine).masked_fill(~present[:, None], -torch.inf)
        assign = logits.softmax(-1) * valid[..., None]
        return Pooled(weighted_mean(tokens.x, assign), tokens.cls, assign)
