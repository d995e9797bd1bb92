"""Graph pooling, the operator of CAST.

Learning Hierarchical Image Segmentation For Recognition and By Recognition, https://arxiv.org/abs/2210.00314,
section 3.2 and Algorithm 1.  Where the algorithm averages MLP(Z), the released code averages between the
MLP's two layers; this is the released code's way.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Pooling
from castssl.pooling import centroids as choose
from castssl.pooling.arithmetic import check_size, gather, masked_mean, weighted_mean
from castssl.types import Pooled, Tokens

Centroids = Literal["farthest", "random", "received"]
Padding = Literal["mask", "reference"]
KAPPA = 5.0
"""Concentration of the soft assignment; fixed in the released code."""


class GraphPool(Pooling):
    """Soft assignment of tokens to sampled centroids in a refined feature space.

    Args:
        dim: token width D.
        heads: attention heads; by default 12 as in every published model, or dim // 32 where 12 does not
            divide ``dim``.
        centroids: which tokens become centroids: farthest point sampling (the paper's choice), random, or
            those that received most attention (PoWER-BERT); Table 5b.
        padding: ``"mask"`` keeps padding out of everything; ``"reference"`` lets it take part in attention,
            means and averages, as the published models do.
        exact: sample in float64, as the published models do.
        dropout: after the MLP's first layer, in training.

    Raises:
        ValueError: if ``dim`` is not a multiple of ``heads``, or an option is not one of those named.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int | None = None,
        centroids: Centroids = "farthest",
        padding: Padding = "mask",
        exact: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        heads = heads or (12 if dim % 12 == 0 else max(dim // 32, 1))
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got dim {dim} and {heads} heads")
        for value, allowed in ((centroids, get_args(Centroids)), (padding, get_args(Padding))):
            if value not in allowed:
                raise ValueError(f"expected one of {allowed}, got {value!r}")
        self.centroids = centroids
        self.padding = padding
        self.exact = exact
        self.needs = frozenset({"received"} if centroids == "received" else ())
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, qkv_bias=True)
        self.bias = nn.Parameter(torch.randn(dim) * 0.01)
        self.fc1 = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout))
        self.fc2 = nn.Sequential(nn.LayerNorm(4 * dim), nn.Linear(4 * dim, dim))

    def reset_parameters(self) -> None:
        """Draw anew what is a parameter of this module itself."""
        nn.init.normal_(self.bias, std=0.01)

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool into ``size`` tokens; the class token passes the same MLP with its own residual."""
        assign, index = self.assign(tokens, size)
        present = assign.new_ones(index.shape, dtype=torch.bool)
        if self.padding == "mask":
            present = (tokens.mass > 0).gather(1, index)
        hidden = self.fc1(torch.cat([tokens.cls, tokens.x], 1))
        mean = weighted_mean(hidden[:, 1:], assign)
        out = self.fc2(torch.cat([hidden[:, :1], mean], 1))
        x = (gather(tokens.x, index) + out[:, 1:]) * present[..., None]
        # Padding has mass 0, and its row of ``assign`` must be 0, too.
        assign = assign * (tokens.mass > 0)[..., None]
        return Pooled(x.to(tokens.x.dtype), (tokens.cls + out[:, :1]).to(tokens.cls.dtype), assign)

    def assign(self, tokens: Tokens, size: int) -> tuple[Tensor, Tensor]:
        """Soft assignment float32 (B, N, K), and the centroids' token indices int64 (B, K)."""
        logits, index = self.logits(tokens, size)
        if self.padding == "reference":
            return logits.softmax(-1), index
        valid = tokens.mass > 0
        absent = ~valid.gather(1, index)
        assign = logits.masked_fill(absent[:, None], -torch.inf).softmax(-1)
        # Not a product: of an image without any token all rows are NaN here.
        return assign.masked_fill(~valid[..., None], 0.0), index

    def logits(self, tokens: Tokens, size: int) -> tuple[Tensor, Tensor]:
        """Kappa times the cosine of refined tokens and centroids: float32 (B, N, K), and the picks (B, K).

        Raises:
            ValueError: unless 1 <= size <= N.
        """
        check_size(tokens, size)
        index = self._pick(tokens, size)
        refined = F.normalize(self._refine(tokens), dim=-1)
        with torch.autocast(refined.device.type, enabled=False):
            return KAPPA * refined @ gather(refined, index).transpose(1, 2), index

    def _pick(self, tokens: Tokens, size: int) -> Tensor:
        valid = tokens.mass > 0
        if self.centroids == "farthest":
            return choose.farthest(tokens.x, valid, size, exact=self.exact)
        if self.centroids == "random":
            return choose.random(tokens.x, valid, size)
        if tokens.received is None:
            raise ValueError("centroids='received' needs tokens.received; the model records it for `needs`")
        return choose.most_attended(tokens.received, valid, size)

    def _refine(self, tokens: Tokens) -> Tensor:
        """U = Z + MSA(Z), centered over the tokens, plus a bias: float32 (or better) (B, N, D)."""
        valid, mask = tokens.mass > 0, None
        if self.padding == "reference":
            valid = torch.ones_like(valid)
        else:
            mask = valid[:, None, None]
        refined: Tensor = tokens.x + self.attn(self.norm(tokens.x), attn_mask=mask)
        refined = refined.to(torch.promote_types(refined.dtype, torch.float32))
        return refined - (masked_mean(refined, valid) - self.bias)
