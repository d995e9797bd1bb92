"""One stage: attention blocks over the class token and the segment tokens, padding masked by mass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from timm.models import checkpoint
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from castssl.attention import Attention
from castssl.contracts import Need
from castssl.models.recorded import record
from castssl.types import Tokens

layer_norm = partial(nn.LayerNorm, eps=1e-6)


class Stage(nn.Module):
    """ViT blocks (timm's) at one number of tokens.

    Args:
        dim: token width D.
        heads: attention heads.
        drop_path: stochastic depth rate of each block; as many blocks as rates.
        masked: keep padding out of attention; False lets it take part, as the published models do.
    """

    def __init__(self, dim: int, heads: int, drop_path: Sequence[float], *, masked: bool = True) -> None:
        super().__init__()
        self.masked = masked
        self.checkpointing = False
        """Compute the blocks again in the backward pass instead of keeping what they computed."""
        layers: Any = {"norm_layer": layer_norm, "attn_layer": Attention}
        self.blocks = nn.ModuleList(
            Block(dim, heads, qkv_bias=True, drop_path=rate, **layers) for rate in drop_path
        )

    def forward(
        self, tokens: Tokens, needs: Iterable[Need] = (), visit: Callable[[Tokens], Tensor] | None = None
    ) -> Tokens:
        """The tokens after the blocks, with what ``needs`` asks of the last block's attention.

        Args:
            tokens: those before the blocks.
            needs: what the pooling after them asks for.
            visit: called after each block with the tokens, without what ``needs`` asks for; it returns their
                x, float (B, N, D), for what follows.
        """
        x = torch.cat([tokens.cls, tokens.x], 1)
        mask = self._mask(tokens)
        recorded: dict[Need, Tensor] = {}
        for depth, block in enumerate(self.blocks, start=1):
            if needs and depth == len(self.blocks) and isinstance(block, Block):
                recorded = record(block, x, mask)
            again = self.checkpointing and torch.is_grad_enabled()
            x = (partial(checkpoint, block) if again else block)(x, attn_mask=mask)
            if visit is not None:
                changed = visit(Tokens(x[:, 1:], x[:, :1], tokens.mass, bias=tokens.bias))
                x = torch.cat([x[:, :1], changed.to(x.dtype)], 1)
        kept = {need: recorded[need] for need in needs if need in recorded}
        keys, received = kept.get("keys"), kept.get("received")
        return Tokens(x[:, 1:], x[:, :1], tokens.mass, keys, received, tokens.bias)

    def _mask(self, tokens: Tokens) -> Tensor | None:
        """Which keys take part, bool (B, 1, 1, 1 + N); or, of tokens with a bias, what logits get added."""
        present = nn.functional.pad(tokens.mass > 0, (1, 0), value=True)[:, None, None]
        if tokens.bias is None:
            return present if self.masked else None
        bias = nn.functional.pad(tokens.bias, (1, 0))[:, None, None].to(tokens.x.dtype)
        return bias.masked_fill(~present, -torch.inf) if self.masked else bias
