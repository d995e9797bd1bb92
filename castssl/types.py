"""The types that cross rooms.

Shape letters: B images, N tokens, K pooled tokens, D channels, H x W pixels, L label levels, C classes.
Named tuples, because collation, Accelerate, DDP and device transfer carry them through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor


class View(NamedTuple):
    """One augmented view of each image of a batch.

    Before ``to_views`` (a *raw* view) ``image`` is uint8, and ``segments`` is (B, 0, 0) when the
    superpixels run on the device.
    """

    image: Tensor
    """float32 (B, C, H, W), normalized: RGB with C = 3, or other channels (castssl.models.channels)."""
    segments: Tensor
    """int32 (B, H, W), values in [0, capacity)."""


RawView = View
"""A :class:`View` before ``castssl.data.normalize``: uint8 image, segments maybe (B, 0, 0)."""


class Batch(NamedTuple):
    """What a loader yields and an objective consumes."""

    views: Sequence[View]
    target: Tensor
    """Label path int64 (B, L), coarse to fine, L = 0 if unlabeled; or multi-hot float32 (B, C), 1 or 0; or a
    map of classes int64 (B, H, W).  -1 where unknown."""
    text: Tensor | None = None
    """float32 (B, E), the embedding of each image's text, 0 where an image has none; None without texts."""


class Tokens(NamedTuple):
    """The tokens of one stage; a row with mass 0 is padding."""

    x: Tensor
    """float (B, N, D)."""
    cls: Tensor
    """float (B, 1, D)."""
    mass: Tensor
    """float32 (B, N), stem cells behind each token."""
    keys: Tensor | None = None
    """float (B, N, d), the last attention's keys, mean over heads."""
    received: Tensor | None = None
    """float32 (B, N), attention each token received: mean over heads, sum over queries."""
    bias: Tensor | None = None
    """float32 (B, N), what attention adds to its logits of each token; None for 0."""


class Pooled(NamedTuple):
    """What a pooling returns."""

    x: Tensor
    """float (B, K, D)."""
    cls: Tensor
    """float (B, 1, D)."""
    assign: Tensor
    """float32 (B, N, K); a valid row sums to 1, a padded row is all 0."""
    bias: Tensor | None = None
    """float32 (B, K), finite: what attention adds to its logits of each token from here on; None for 0."""


class Hierarchy(NamedTuple):
    """All stages of one forward pass, and how each token was handed to the next stage."""

    segments: Tensor
    """int32 (B, H, W); -1 where a label was out of range, see :mod:`castssl.superpixel_labels`."""
    stages: tuple[Tokens, ...]
    """Fine to coarse."""
    assigns: tuple[Tensor, ...]
    """One fewer than ``stages``: float32 (B, N, K), rows sum to 1; or, where each token passes wholly to one,
    int64 (B, N), the token of the next stage.  A padded row is all 0, or -1."""

    def into(self, stage: int) -> Tensor:
        """The token of the next stage that most of each token of ``stage`` passed to: int64 (B, N).

        Meaningless for padding, but in range.  ``IndexError`` for the last stage.
        """
        assign = self.assigns[stage]
        return assign.argmax(-1) if assign.is_floating_point() else assign.clamp(min=0)

    def shares(self, stage: int) -> Tensor:
        """How each token of ``stage`` passed to those of the next: float32 (B, N, K), padding all 0."""
        assign = self.assigns[stage]
        if assign.is_floating_point():
            return assign
        count = self.stages[stage + 1].x.shape[1]
        return (assign[..., None] == torch.arange(count, device=assign.device)).float()

    def parents(self, stage: int, *, soft: bool = False) -> Tensor:
        """The token of ``stage`` that each finest token ended up in: int64 (B, N), a chain of argmaxes.

        ``soft``: the argmax of the product of the assignments (CAST, equation 2); segments may not nest.
        """
        before = range(stage % len(self.stages))
        # Where every token passes wholly to one, the product is the chain.
        if soft and any(self.assigns[at].is_floating_point() for at in before):
            return reduce(torch.matmul, map(self.shares, before)).argmax(-1)
        token = torch.arange(self.stages[0].x.shape[1], device=self.segments.device)
        token = token.expand(self.stages[0].x.shape[0], -1)
        for at in before:
            token = self.into(at).gather(1, token)
        return token

    def labels(self, stage: int, *, soft: bool = False) -> Tensor:
        """The segmentation at ``stage``: int64 (B, H, W); -1 where a pixel's segment has no token."""
        token = self.parents(stage, soft=soft).masked_fill(self.stages[0].mass <= 0, -1)
        flat = self.segments.flatten(1).long()
        return token.gather(1, flat.clamp(min=0)).masked_fill(flat < 0, -1).view(self.segments.shape)


class LabelAttention(NamedTuple):
    """What each label attends to at each stage."""

    hierarchy: Hierarchy
    """The tokens that are attended to."""
    weights: tuple[Tensor, ...]
    """float32 (B, C, N) of each stage; the weights of a label sum to 1, padding has 0."""


class DenseTokens(NamedTuple):
    """The finest tokens of an encoder, which know of its coarser stages, and where they lie."""

    x: Tensor
    """float (B, N, D)."""
    mass: Tensor
    """float32 (B, N), what lies behind each token; 0 is padding."""
    labels: Tensor
    """int (B, H, W), the token of each pixel; -1 where a pixel has none."""
    grid: tuple[int, int] | None = None
    """Rows and columns if the tokens are the cells of a regular grid, row by row; None if they have no grid,
    as superpixels."""


class Outcome(NamedTuple):
    """What an objective returns."""

    loss: Tensor
    """float32 scalar with gradient, mean over this rank's batch."""
    logs: Mapping[str, Tensor]
    """Detached float scalars."""
