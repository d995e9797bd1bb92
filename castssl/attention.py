"""Self-attention that is computed in float32 on a processor, also under autocast."""

from __future__ import annotations

import torch
from timm.layers import attention
from torch import Tensor
from torch.nn import functional as F


class Attention(attention.Attention):
    """timm's attention; on a processor, queries, keys and values of half precision become float32.

    Torch's kernel for processors is slower in bfloat16 than in float32 in the backward pass, most of all for
    few tokens, and as fast in the forward pass.  Float32 also rounds less.  The linear layers stay in half
    precision.  It has neither dropout nor norms of queries and keys, which castssl's models do not use.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens after attention, float (B, N, D) -> (B, N, D).

        Args:
            x: tokens.
            attn_mask: which keys take part, bool, or what is added to the logits, float; (B, 1, 1 or N, N).
            is_causal: each token attends to itself and the tokens before it; then there is no mask.
        """
        if x.device.type != "cpu" or not self.fused_attn:
            return super().forward(x, attn_mask, is_causal)
        batch, count, _ = x.shape
        qkv = self.qkv(x)
        wide = torch.promote_types(qkv.dtype, torch.float32)
        parts = qkv.to(wide).view(batch, count, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if attn_mask is not None and attn_mask.dtype != torch.bool:
            attn_mask = attn_mask.to(wide)
        with torch.autocast("cpu", enabled=False):
            query, key, value = parts.unbind()
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask, is_causal=is_causal)
        x = self.proj(mixed.transpose(1, 2).reshape(batch, count, self.attn_dim).to(qkv.dtype))
        return x
