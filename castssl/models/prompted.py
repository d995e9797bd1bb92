"""Prompt tokens that take part in single blocks of an encoder.

TransHP: Image Classification with Hierarchical Prompting, https://arxiv.org/abs/2304.06385, where the prompts
stand for coarse classes; here they are just tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional as F


class Prompts:
    """The prompts of one forward pass, on their way through all blocks of an encoder, counted from 0.

    Attributes:
        after: what became of the prompts in their blocks, in the order of the blocks: float (B, M, D).

    Args:
        joining: prompt tokens float (M, D), or (B, M, D), by the block that they join.
        blocks: how many blocks there are.

    Raises:
        ValueError: if there is no such block.
    """

    def __init__(self, joining: Mapping[int, Tensor], blocks: int) -> None:
        strange = sorted(set(joining) - set(range(blocks)))
        if strange:
            raise ValueError(f"prompts for the blocks {strange}, but the encoder has 0 to {blocks - 1}")
        self.joining = joining
        self.passed = 0
        self.after: list[Tensor] = []

    def through(self, block: Block, x: Tensor, mask: Tensor | None) -> Tensor:
        """The tokens after the next block: class token and tokens alone, float (B, 1 + N, D).

        Args:
            block: a timm block.
            x: its input, float (B, 1 + N, D).
            mask: bool (B, 1, 1, 1 + N), True where a key takes part; prompts always do.
        """
        at, self.passed = self.passed, self.passed + 1
        if at not in self.joining:
            alone: Tensor = block(x, attn_mask=mask)
            return alone
        own = self.joining[at].to(x.dtype).expand(len(x), -1, -1)
        if mask is not None:
            mask = F.pad(mask, (0, own.shape[1]), value=True)
        together: Tensor = block(torch.cat([x, own], 1), attn_mask=mask)
        self.after.append(together[:, x.shape[1] :])
        return together[:, : x.shape[1]]
