"""Mask queries: each query predicts a class and a mask over an encoder's dense tokens.

The queries join the last blocks of the encoder, as in EoMT (https://arxiv.org/abs/2503.19108), or blocks of
their own on a frozen encoder, as in PMT (https://arxiv.org/abs/2603.25398).  A mask has one logit for each
superpixel, or for each cell of a grid that is upscaled to a stride of 4 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from math import log2
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder
from castssl.models import initialization
from castssl.models.blocks import layer_norm
from castssl.models.cast import CAST
from castssl.models.fuse import token_norm
from castssl.models.timm_encoder import TimmEncoder, cells, grid_tokens, is_parted, prefix_tokens
from castssl.types import DenseTokens, Pooled

QUERIES = 100
JOINED, OWN, TAPPED = 4, 6, 4
"""Blocks of the encoder that the queries join; blocks of their own; blocks of a ViT that these read."""
Dense = Callable[[], DenseTokens]
"""Runs the encoder on a view."""


class Predictions(NamedTuple):
    """What each query predicts, before each block that it is in and, last, after all of them.

    In evaluation mode there is the last prediction alone, so P is 1.
    """

    classes: Tensor
    """Logits float (P, B, Q, C + 1); the last class means that the query has no segment."""
    masks: Tensor
    """Logits float (P, B, Q, N)."""
    tokens: DenseTokens
    """Where the masks lie."""

    def scores(self) -> Tensor:
        """Scores of each class at each token, float (B, N, C): the sum over queries of class times mask."""
        probabilities = self.classes[-1].softmax(-1)[..., :-1]
        return self.masks[-1].sigmoid().transpose(1, 2) @ probabilities


class Adapter(nn.Module):
    """One layer's tokens for blocks of another network: batch norm, a residual MLP, and a channel scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim))
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """float (B, N, D), bool (B, N) -> float (B, N, D)."""
        x = token_norm(x, valid, self.norm)
        scaled: Tensor = (x + self.mlp(x)) * self.scale
        return scaled


class Upscale(nn.Module):
    """Maps (B, D, h, w) at twice the height and width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.larger = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.smooth = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """float (B, D, h, w) -> float (B, D, 2 h, 2 w)."""
        x = self.smooth(F.gelu(self.larger(x)))
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normed


class MaskQueries(nn.Module):
    """Learned queries that predict a class and a mask each.

    In training each block restricts a query to the tokens inside of the mask that it predicts before the
    block.  Queries, class token and tokens are else free to attend to each other.  The share of queries that
    are restricted falls from 1 to 0, block by block (:meth:`anneal`).  Nothing is restricted in evaluation.

    Args:
        encoder: what the queries will join; only its shape is read.
        classes: number of classes C.
        own: give the queries blocks of their own, which read the encoder.  An encoder without blocks that
            queries can join, such as a convolutional network, gets them in any case.
    """

    keep: Tensor

    def __init__(self, encoder: Encoder, classes: int, *, own: bool = False) -> None:
        super().__init__()
        assert encoder.dense_dim is not None
        self.masked = True
        joined = [] if own else joinable(encoder)
        self.layers = len(joined[-JOINED:]) or OWN
        parts, width = (1, encoder.dim) if joined else _parts(encoder)
        self.adapters = nn.ModuleList(Adapter(width) for _ in range(0 if joined else parts))
        heads = next(count for count in range(max(width // 64, 1), 0, -1) if width % count == 0)
        options: dict[str, Any] = {"qkv_bias": True, "init_values": 1.0, "norm_layer": layer_norm}
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=1.0, **options) for _ in range(0 if joined else OWN)
        )
        self.queries = nn.Parameter(torch.randn(1, QUERIES, width))
        self.norm = layer_norm(width)
        self.classify = nn.Linear(width, classes + 1)
        self.embed = nn.Sequential(
            *(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU()), nn.Linear(width, width)
        )
        dense_dim = encoder.dense_dim if joined else width
        self.coarse = nn.Sequential(layer_norm(width), nn.Linear(width, width))
        self.fine = nn.Sequential(layer_norm(dense_dim), nn.Linear(dense_dim, width))
        self.upscale = nn.Sequential(*(Upscale(width) for _ in range(_doublings(encoder))))
        self.register_buffer("keep", torch.ones(self.layers))
        initialization.draw_as_deit(self.blocks, width)

    def forward(self, encoder: Encoder, dense: Dense) -> Predictions:
        """Predictions for the images that ``dense`` runs the encoder on.

        Args:
            encoder: of the shape that the head was built for.
            dense: calls ``encoder.dense``.
        """
        if not self.adapters:
            joint = Joint(self, joinable(encoder)[-self.layers :], prefix_tokens(encoder))
            poolings = [*encoder.poolings] if isinstance(encoder, CAST) else []
            with joint.hooks(poolings):
                tokens = dense()
            return joint.predictions(tokens, tokens.x)
        tokens, layers = self._read(encoder, dense)
        valid = tokens.mass > 0
        adapted = [adapter(x, valid) for adapter, x in zip(self.adapters, layers, strict=True)]
        x = torch.stack(adapted).sum(0)
        joint = Joint(self, [*self.blocks], 0)
        with joint.hooks():
            for block in self.blocks:
                x = block(x, attn_mask=valid[:, None, None])
        return joint.predictions(tokens, x)

    def _read(self, encoder: Encoder, dense: Dense) -> tuple[DenseTokens, list[Tensor]]:
        """The dense tokens, and the layers that the queries' own blocks read, float (B, N, D) each.

        These are the stages of a CAST without fusion, four blocks of a ViT, or the dense tokens alone.
        """
        count = len(self.adapters)
        blocks = [] if isinstance(encoder, CAST) or count == 1 else joinable(encoder)
        if not blocks:
            tokens = dense()
            return tokens, [*tokens.x.chunk(count, -1)]
        layers: list[Tensor] = []
        norm, prefix = encoder.last_norm or nn.Identity(), prefix_tokens(encoder)
        with ExitStack() as stack:
            for at in range(1, count + 1):
                block = blocks[len(blocks) * at // count - 1]
                hook = block.register_forward_hook(lambda _, __, x: layers.append(norm(x)[:, prefix:]))
                stack.enter_context(hook)
            tokens = dense()
        return tokens, layers

    def disable_masks(self) -> None:
        """Never restrict a query."""
        self.masked = False
        self.keep.zero_()

    def anneal(self, progress: float) -> None:
        """Set the share of queries that keep their masks in each of the L blocks.

        That of block k is 1 until (k + 1) / (L + 2) of the training, then falls, and is 0 from
        (k + 2) / (L + 2) on, as EoMT has it on ADE20K.

        Args:
            progress: share of the steps done, in (0, 1].
        """
        if self.masked:
            done = progress * (self.layers + 2) - torch.arange(1, self.layers + 1, dtype=torch.float32)
            self.keep.copy_((1 - done.clamp(0, 1)) ** 0.9, non_blocking=True)


class Joint:
    """One pass of queries through blocks, beside the tokens that these blocks are given.

    Hooks put the queries before the tokens of each block, and take them out of what it returns, so that
    neither the encoder nor its poolings know of them.

    Args:
        head: the queries.
        blocks: of timm; called once each, in this order.
        prefix: how many class tokens precede the tokens in these blocks.
    """

    def __init__(self, head: MaskQueries, blocks: list[nn.Module], prefix: int) -> None:
        self.head, self.blocks, self.prefix = head, blocks, prefix
        self.queries: Tensor = head.queries
        self.parents: Tensor | None = None
        self.seen: list[tuple[Tensor, Tensor]] = []

    def hooks(self, poolings: list[nn.Module] | None = None) -> ExitStack:
        """A context in which blocks and poolings have the hooks."""
        stack = ExitStack()
        for block in self.blocks:
            stack.enter_context(block.register_forward_pre_hook(self._enter, with_kwargs=True))
            stack.enter_context(block.register_forward_hook(self._leave))
        for pooling in poolings or ():
            stack.enter_context(pooling.register_forward_hook(self._pool))
        return stack

    def predictions(self, tokens: DenseTokens, x: Tensor) -> Predictions:
        """All predictions, at the tokens or at the cells of a finer grid.

        Args:
            tokens: the encoder's.
            x: features float (B, N, D) of these.
        """
        features = self.head.fine(x)
        place, index = tokens._replace(x=features), None
        if tokens.grid and len(self.head.upscale):
            maps = self.head.upscale(features.transpose(1, 2).unflatten(2, tokens.grid))
            place = grid_tokens(maps.permute(0, 2, 3, 1), tokens.labels.shape[1:])
            index = cells(maps.shape[-2:], tokens.grid, maps.device)
        classes, masks = self._predict(place.x)
        earlier = [(c, m if index is None else m[..., index.flatten()]) for c, m in self.seen]
        every = [*earlier, (classes, masks)]
        return Predictions(torch.stack([c for c, _ in every]), torch.stack([m for _, m in every]), place)

    def _predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Classes (B, Q, C + 1) and masks (B, Q, N) of the queries as they are now."""
        queries = self.head.norm(self.queries)
        return self.head.classify(queries), self.head.embed(queries) @ features.transpose(1, 2)

    def _enter(self, block: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        [x] = args
        self.queries = self.queries.expand(x.shape[0], -1, -1).to(x.dtype)
        inside = self._inside(x[:, self.prefix :]) if self.head.training else None
        count, others = self.queries.shape[1], x.shape[1]
        mask = joint_mask(kwargs.get("attn_mask"), inside, count, others)
        return (torch.cat([self.queries, x], 1),), {**kwargs, "attn_mask": mask}

    def _leave(self, block: nn.Module, args: Any, out: Tensor) -> Tensor:
        count = self.queries.shape[1]
        self.queries = out[:, :count]
        return out[:, count:]

    def _pool(self, pooling: nn.Module, args: Any, out: Pooled) -> None:
        parents = out.assign.argmax(-1)
        self.parents = parents if self.parents is None else parents.gather(1, self.parents)

    def _inside(self, x: Tensor) -> Tensor:
        """Which tokens a query may attend to: bool (B, Q, K); and keep the prediction."""
        classes, masks = self._predict(self.head.coarse(x))
        keep = self.head.keep[len(self.seen)]
        free = torch.rand(*masks.shape[:2], 1, device=masks.device) >= keep
        finest = masks
        if self.parents is not None:
            finest = masks.gather(2, self.parents[:, None].expand(-1, masks.shape[1], -1))
        self.seen.append((classes, finest))
        return (masks > 0) | free


def joint_mask(mask: Tensor | None, inside: Tensor | None, queries: int, others: int) -> Tensor | None:
    """The attention mask of T = Q + M rows, queries first.

    Args:
        mask: that of the M others, (B, 1, 1, M), bool or added to the logits; None without one.
        inside: the last K of the others that each query may attend to, bool (B, Q, K); None for all.
        queries: how many queries Q there are.
        others: the number M.

    Returns:
        (B, 1, 1, T) or (B, 1, T, T), in the dtype of ``mask``; None if nothing is masked.
    """
    if mask is not None:
        mask = F.pad(mask, (queries, 0), value=mask.dtype == torch.bool)
    if inside is None:
        return mask
    seen = F.pad(inside, (queries + others - inside.shape[-1], 0, 0, others), value=True)[:, None]
    if mask is None:
        return seen
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)


def joinable(encoder: Encoder) -> list[nn.Module]:
    """The blocks of an encoder in which queries can be further tokens, in order; [] if there are none."""
    if isinstance(encoder, CAST):
        return [part for stage in encoder.stages for part in stage.modules() if isinstance(part, Block)]
    network = encoder.network if isinstance(encoder, TimmEncoder) else None
    if is_parted(network) and all(isinstance(block, Block) for block in network.blocks):
        return [*network.blocks]
    return []


def _parts(encoder: Encoder) -> tuple[int, int]:
    """How many layers the queries' own blocks read, and their width."""
    dim = encoder.dense_dim or encoder.dim
    if isinstance(encoder, CAST):
        return dim // encoder.dim, encoder.dim
    return min(TAPPED, len(joinable(encoder))) or 1, dim


def _doublings(encoder: Encoder) -> int:
    """How often a grid is upscaled to reach a stride of 4 pixels; 0 for superpixels."""
    side, config = encoder.config.image_size / encoder.sizes[0] ** 0.5, encoder.config
    own = side == encoder.stride and config.superpixels == f"grid:cell={encoder.stride}"
    return 0 if encoder.uses_superpixels and not own else max(round(log2(side)) - 2, 0)
