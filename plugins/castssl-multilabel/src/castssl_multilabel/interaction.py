"""Labels attend to the tokens of an image, and are updated: interactive visual-linguistic attention.

HSVLT, https://arxiv.org/abs/2407.16244, section 3.3, as in the released code (commit cd7c5ca): labels attend
to tokens, a projection of the label is multiplied with the result, and a gate scales the label.  Nothing is
normalized by default.

With L labels and V tokens, q k^T = (L Wq Wk^T) V^T and attn v = (attn V) Wv.  The products are taken in this
order: it is the same function of the same weights, and where labels are fewer than tokens it takes less
computation than a projection of every token.

Shape letters: B images, C labels, N tokens, D channels, h heads, d = D / h channels of a head.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.errors import ConfigError
from castssl.types import Tokens

Norm: TypeAlias = Literal["none", "pre"]
Kind: TypeAlias = Literal["interactive", "standard"]
STD = 0.02
"""Deviation of the truncated normal that linear layers are drawn from; biases begin at 0."""


def linear(dim: int, out: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer as the released code begins with it: truncated normal, bias 0."""
    layer = nn.Linear(dim, out, bias=bias)
    nn.init.trunc_normal_(layer.weight, std=STD)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def norm_of(dim: int, norm: Norm) -> nn.Module:
    """A layer norm, or nothing."""
    return nn.LayerNorm(dim, eps=1e-6) if norm == "pre" else nn.Identity()


class Gate(nn.Module):
    """tanh(G2 ReLU(G1 x)), in (-1, 1): what scales a feature, channel by channel.  No bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(linear(dim, dim, bias=False), nn.ReLU(), linear(dim, dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Float (..., D) -> float (..., D)."""
        x = self.layers(x)
        return x.tanh()


class Updated(NamedTuple):
    """What an interaction returns."""

    labels: Tensor
    """float (B, C, D): the labels, updated."""
    fused: Tensor
    """float (B, C, D): M, labels times what they attend to; the last one of each stage is scored."""


class LabelsToTokens(nn.Module):
    """Each label attends to the tokens of its image.

    Args:
        dim: width D.
        heads: attention heads; the released code has one.

    Raises:
        ConfigError: if ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = _checked(dim, heads)
        self.query, self.key, self.value = (linear(dim, dim, bias=False) for _ in range(3))
        self.out = linear(dim, dim)

    def forward(self, labels: Tensor, x: Tensor, mass: Tensor) -> Tensor:
        """What each label gets from the tokens: float (B, C, D).

        Args:
            labels: float (B, C, D).
            x: tokens, float (B, N, D).
            mass: float (B, N); a token of mass 0 gets no attention.  In an image without tokens the result
                is the bias of the last layer.
        """
        present, empty = _present(mass)
        queries = self._queries(labels)  # (B, h C, D)
        keys = x.to(queries.dtype)[:, None]
        scale = (labels.shape[-1] // self.heads) ** -0.5
        mixed = F.scaled_dot_product_attention(
            queries[:, None], keys, keys, attn_mask=present[:, None, None], scale=scale
        )[:, 0]
        mixed = mixed.masked_fill(empty[:, None, None], 0).unflatten(1, (self.heads, -1))
        value = self.value.weight.unflatten(0, (self.heads, -1))  # (h, d, D)
        found: Tensor = self.out((mixed @ value.transpose(1, 2)).transpose(1, 2).flatten(2))
        return found

    def weights(self, labels: Tensor, x: Tensor, mass: Tensor) -> Tensor:
        """The attention float32 (B, C, N), mean over heads; rows sum to 1, without tokens to 0."""
        present, empty = _present(mass)
        scale = (labels.shape[-1] // self.heads) ** -0.5
        queries = self._queries(labels)
        logits = (queries @ x.to(queries.dtype).transpose(1, 2)).float() * scale
        attention = logits.masked_fill(~present[:, None], -torch.inf).softmax(-1)
        attention = attention.masked_fill(empty[:, None, None], 0)
        mean: Tensor = attention.unflatten(1, (self.heads, -1)).mean(1)
        return mean

    def _queries(self, labels: Tensor) -> Tensor:
        """Queries in the space of the tokens: float (B, h C, D), head by head."""
        query = self.query(labels).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, C, d)
        queries: Tensor = query @ self.key.weight.unflatten(0, (self.heads, -1))
        return queries.flatten(1, 2)


class TokensToLabels(nn.Module):
    """Each token attends to the labels, and is updated through a gate: V + tanh(G2 ReLU(G1 A)) * A.

    The paper updates the visual features, too, by equations that were not readable; the released code does
    not.  This is the gate of SLViT, a related method.  It begins small, and not at 0, where its other weights
    would get no gradient.

    Args:
        dim: width D.
        heads: attention heads.
        norm: of tokens and labels before their projection.
    """

    def __init__(self, dim: int, heads: int = 1, norm: Norm = "none") -> None:
        super().__init__()
        self.heads = _checked(dim, heads)
        self.query, self.key, self.value = (linear(dim, dim, bias=False) for _ in range(3))
        self.out, self.gate = linear(dim, dim), Gate(dim)
        self.norm_tokens, self.norm_labels = norm_of(dim, norm), norm_of(dim, norm)

    def forward(self, labels: Tensor, x: Tensor) -> Tensor:
        """The tokens, updated: float (B, N, D) of the dtype of ``x``.

        Args:
            labels: float (B, C, D).
            x: tokens, float (B, N, D).
        """
        labels = self.norm_labels(labels)
        split = (self.heads, -1)
        key, value = (
            part(labels).unflatten(-1, split).transpose(1, 2) for part in (self.key, self.value)
        )  # (B, h, C, d)
        key = key @ self.query.weight.unflatten(0, split)  # (B, h, C, D)
        value = value @ self.out.weight.unflatten(1, split).permute(1, 2, 0)
        query = self.norm_tokens(x).to(key.dtype)[:, None].expand(-1, self.heads, -1, -1)
        scale = (labels.shape[-1] // self.heads) ** -0.5
        found = F.scaled_dot_product_attention(query, key, value, scale=scale).sum(1)
        found = found + self.out.bias.to(found.dtype)
        update: Tensor = self.gate(found) * found
        return x + update.to(x.dtype)


class Interaction(nn.Module):
    """One interaction of labels with the tokens of a stage; a subclass defines :meth:`update`.

    Args:
        dim: width D of tokens and labels.
        heads: attention heads.
        norm: ``"pre"`` normalizes labels and tokens before each use.
    """

    def __init__(self, dim: int, heads: int = 1, norm: Norm = "none") -> None:
        super().__init__()
        self.attention = LabelsToTokens(dim, heads)
        self.norm_labels, self.norm_tokens = norm_of(dim, norm), norm_of(dim, norm)

    def forward(self, labels: Tensor, tokens: Tokens) -> Updated:
        """Updated labels, and their product with the tokens (M).

        Args:
            labels: float (B, C, D).
            tokens: of a stage; a token of mass 0 gets no attention.
        """
        normed = self.norm_labels(labels)
        return self.update(labels, normed, self.attention(normed, self.norm_tokens(tokens.x), tokens.mass))

    def update(self, labels: Tensor, normed: Tensor, found: Tensor) -> Updated:
        """The result, from the labels, the normalized labels and what the attention returned."""
        raise NotImplementedError(f"{type(self).__name__}.update")

    def weights(self, labels: Tensor, tokens: Tokens) -> Tensor:
        """The attention of :meth:`forward`: float32 (B, C, N), mean over heads."""
        return self.attention.weights(self.norm_labels(labels), self.norm_tokens(tokens.x), tokens.mass)

    def end(self) -> None:
        """Freeze what only the next interaction would read; called of the last one of a model."""


class Interactive(Interaction):
    """The released block: M = GELU(Lin(GELU(Lin(L)) * A)), L' = L + M, L'' = L' + tanh(G2 ReLU(G1 L')) * L'.

    A is what the attention returns.  The two layers of M begin as PyTorch's 1 x 1 convolutions do.
    """

    def __init__(self, dim: int, heads: int = 1, norm: Norm = "none") -> None:
        super().__init__(dim, heads, norm)
        self.ask, self.fuse = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.gate, self.norm_gate = Gate(dim), norm_of(dim, norm)
        self.last = False

    def update(self, labels: Tensor, normed: Tensor, found: Tensor) -> Updated:
        """As the class says."""
        fused = F.gelu(self.fuse(F.gelu(self.ask(normed)) * found))
        labels = labels + fused
        if not self.last:
            labels = labels + self.gate(self.norm_gate(labels)) * labels
        return Updated(labels, fused)

    def end(self) -> None:
        """The gate serves the labels after it alone: the last one is never computed."""
        self.last = True
        self.gate.requires_grad_(False)
        self.norm_gate.requires_grad_(False)


class Standard(Interaction):
    """The paper's ablation, a plain cross-attention layer: L' = L + A, M = L'' = L' + MLP(L').

    The paper's table is not readable.  The MLP has 2 D hidden channels, so that this layer has the weights of
    :class:`Interactive` (8 D^2) and a comparison shows the mechanism, not the size.
    """

    def __init__(self, dim: int, heads: int = 1, norm: Norm = "none") -> None:
        super().__init__(dim, heads, norm)
        self.norm_mlp = norm_of(dim, norm)
        self.mlp = nn.Sequential(linear(dim, 2 * dim), nn.GELU(), linear(2 * dim, dim))

    def update(self, labels: Tensor, normed: Tensor, found: Tensor) -> Updated:
        """As the class says."""
        labels = labels + found
        labels = labels + self.mlp(self.norm_mlp(labels))
        return Updated(labels, labels)


INTERACTIONS: dict[Kind, type[Interaction]] = {"interactive": Interactive, "standard": Standard}
"""By the value of the option ``attention``."""


def _present(mass: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens get attention, bool (B, N), and which images have none, bool (B,).

    All tokens of an image without any are marked, since a softmax over nothing is not a number.
    """
    present = mass > 0
    empty = ~present.any(-1)
    return present | empty[:, None], empty


def _checked(dim: int, heads: int) -> int:
    if heads < 1 or dim % heads:
        raise ConfigError(
            f"heads: got {heads} for a stage of {dim} channels, expected a number that divides the channels"
            " of every stage, such as 1"
        )
    return heads
