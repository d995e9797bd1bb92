"""Graph pooling, the operator of CAST.

Learning Hierarchical Image Segmentation For Recognition and By Recognition, https://arxiv.org/abs/2210.00314,
section 3.2 and Algorithm 1.  Where the paper and the released code differ, the code's way is the default.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.attention import Attention
from castssl.contracts import Pooling
from castssl.pooling import centroids as choose
from castssl.pooling.arithmetic import check_size, gather, masked_mean, weighted_mean
from castssl.types import Pooled, Tokens

Centroids = Literal["farthest", "random", "received"]
Padding = Literal["mask", "reference"]
ClassToken = Literal["mlp", "keep"]
Average = Literal["hidden", "output"]


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
        cls: ``"mlp"``: the class token passes the tokens' MLP with its own residual, as in the released
            code; ``"keep"``: it is returned as it is.  The paper leaves it open.
        kappa: concentration of the soft assignment, above 0; 5 in the released code.
        average: of which features of the MLP the clusters' means are taken: ``"hidden"``, between its two
            layers, as in the released code, or ``"output"``, as in Algorithm 1.  Only the layer norm between
            the two tells them apart: a mean commutes with the last linear layer.

    Raises:
        ValueError: if ``dim`` is not a multiple of ``heads``, ``kappa`` is not positive, or an option is not
            one of those named.
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
        cls: ClassToken = "mlp",
        kappa: float = 5.0,
        average: Average = "hidden",
    ) -> None:
        super().__init__()
        heads = heads or (12 if dim % 12 == 0 else max(dim // 32, 1))
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got dim {dim} and {heads} heads")
        if not 0 < kappa < float("inf"):
            raise ValueError(f"kappa must be a positive number, got {kappa}")
        options = ((centroids, Centroids), (padding, Padding), (cls, ClassToken), (average, Average))
        for value, choices in options:
            if value not in get_args(choices):
                raise ValueError(f"expected one of {get_args(choices)}, got {value!r}")
        self.centroids, self.padding, self.exact = centroids, padding, exact
        self.cls, self.kappa, self.average = cls, kappa, average
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
        """Pool into ``size`` tokens; padding has mass 0."""
        assign, index = self.assign(tokens, size)
        present = self._takes_part(tokens).gather(1, index)
        if self.cls == "keep":
            cls, mean = tokens.cls, self._mlp(tokens.x, assign)
        else:
            out = self._mlp(torch.cat([tokens.cls, tokens.x], 1), assign)
            cls, mean = tokens.cls + out[:, :1], out[:, 1:]
        x = (gather(tokens.x, index) + mean) * present[..., None]
        # Padding has mass 0, and its row of ``assign`` must be 0, too.
        assign = assign * (tokens.mass > 0)[..., None]
        return Pooled(x.to(tokens.x.dtype), cls.to(tokens.cls.dtype), assign)

    def _mlp(self, rows: Tensor, assign: Tensor) -> Tensor:
        """The MLP's features of the rows before the tokens', then their means over the clusters."""
        first = rows.shape[1] - assign.shape[1]
        rows = self.fc1(rows)
        if self.average == "output":
            rows = self.fc2(rows)
        rows = torch.cat([rows[:, :first], weighted_mean(rows[:, first:], assign)], 1)
        return rows if self.average == "output" else self.fc2(rows)

    def assign(self, tokens: Tokens, size: int) -> tuple[Tensor, Tensor]:
        """Soft assignment float32 (B, N, K), and the centroids' token indices int64 (B, K)."""
        logits, index = self.logits(tokens, size)
        valid = self._takes_part(tokens)
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
            return self.kappa * refined @ gather(refined, index).transpose(1, 2), index

    def _takes_part(self, tokens: Tokens) -> Tensor:
        """Which tokens take part in attention, means and averages: bool (B, N)."""
        valid = tokens.mass > 0
        return valid if self.padding == "mask" else torch.ones_like(valid)

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
        valid = self._takes_part(tokens)
        mask = valid[:, None, None] if self.padding == "mask" else None
        refined: Tensor = tokens.x + self.attn(self.norm(tokens.x), attn_mask=mask)
        refined = refined.to(torch.promote_types(refined.dtype, torch.float32))
        return refined - (masked_mean(refined, valid) - self.bias)
