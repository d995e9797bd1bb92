"""CAST: a vision transformer over superpixels that pools its tokens as it recognizes.

Learning Hierarchical Image Segmentation For Recognition and By Recognition, https://arxiv.org/abs/2210.00314,
section 3 and Algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from castssl.contracts import Encoder, Pooling, Visit
from castssl.encoder_config import BY_HAND, EncoderConfig, Membership, Padding, Positions
from castssl.models import initialization
from castssl.models.blocks import Stage, layer_norm
from castssl.models.transitions import Identity, unpool
from castssl.superpixel_labels import bounded
from castssl.tokens.inputs import check_view
from castssl.tokens.positions import resize, sin_cos
from castssl.tokens.segments import sample_labels, segment_mean
from castssl.tokens.stem import ConvStem
from castssl.types import DenseTokens, Hierarchy, Pooled, Tokens, View


class CAST(Encoder):
    """Stages of attention blocks with poolings between; see :class:`castssl.contracts.Encoder`.

    Equal sizes in a row mean no pooling there.  A trailing stage of depth 0 serves no class token: it exists
    for the segmentation alone, :meth:`forward` leaves it out, and its pooling is frozen.

    Attributes:
        config: what it was built from; its pooling is ``""`` if that was not :func:`castssl.create`.

    Args:
        depths: blocks per stage, fine to coarse.
        sizes: token budget per stage; the first is the number of superpixels to expect at most.
        make_pooling: called with ``dim`` once per transition.
        dim: token width D.
        heads: attention heads.
        image_size: side in pixels for which the position table is made; other sizes resize it.
        stride: pixels per stem cell side.
        membership: how stem cells belong to superpixels, see :mod:`castssl.tokens.segments`.
        padding: ``"mask"``: an image's result does not depend on its neighbors in the batch;
            ``"reference"``: empty tokens take part in attention, as in the published models.
        positions: ``"sincos"`` (fixed, MoCo models) or ``"learned"`` (DeiT models).
        drop_path: stochastic depth of the last block; grows linearly from 0.
        final_norm: normalize the last class token; the segmentation variant does not.

    Raises:
        ValueError: if depths and sizes differ in length, sizes rise, or a stage before the last has no block.
    """

    def __init__(
        self,
        depths: Sequence[int],
        sizes: Sequence[int],
        make_pooling: Callable[[int], Pooling],
        *,
        dim: int = 384,
        heads: int = 12,
        image_size: int = 224,
        stride: int = 8,
        membership: Membership = "nearest",
        padding: Padding = "mask",
        positions: Positions = "sincos",
        drop_path: float = 0.0,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        _check(depths, sizes)
        self.dim, self.sizes, self.depths = dim, tuple(sizes), tuple(depths)
        self.membership, self.padding, self.stride = membership, padding, stride
        self.config = EncoderConfig(type(self).__name__, self.depths, self.sizes, dim, heads, stride, BY_HAND)
        self.config = replace(self.config, image_size=image_size, membership=membership, padding=padding)
        self.config = replace(self.config, positions=positions, drop_path=drop_path)
        self.stem = ConvStem(dim, stride=stride)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        grid = -(-image_size // stride)
        table = sin_cos(dim, grid, grid) if positions == "sincos" else torch.empty(1, dim, grid, grid)
        self.positions = nn.Parameter(table, requires_grad=positions == "learned")
        rates = [drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        self.stages = nn.ModuleList(
            Stage(dim, heads, rates[sum(depths[:i]) :][:depth], masked=padding == "mask")
            for i, depth in enumerate(depths)
        )
        self.poolings = nn.ModuleList(
            Identity() if fine == coarse else make_pooling(dim) for fine, coarse in pairwise(sizes)
        )
        self.norm = layer_norm(dim) if final_norm else nn.Identity()
        self.dense_dim = dim * self.stages_with_cls
        self.poolings[self.stages_with_cls - 1 :].requires_grad_(False)
        self.initialize(trunc=positions == "learned")
        # With learned positions the published models add two parameters to one class token: the token, and
        # the first row of the position table.  Both get the same gradient, so their sum moves twice as far.
        self.summands = {"cls_token": 2 if positions == "learned" else 1}

    takes_updates = True
    resized_segments = False
    """Whether the label map may have another size than the image."""

    @property
    def stages_with_cls(self) -> int:
        """How many stages come before the one without blocks."""
        return max(i for i, depth in enumerate(self.depths, start=1) if depth)

    @property
    def last_norm(self) -> nn.Module | None:
        """The layer norm of the last class token."""
        return None if isinstance(self.norm, nn.Identity) else self.norm

    @property
    def visits(self) -> tuple[int, ...]:
        """The blocks of each stage that serves the class token."""
        return self.depths[: self.stages_with_cls]

    if TYPE_CHECKING:

        def __call__(self, view: View, sizes: Sequence[int] | None = None) -> Hierarchy: ...

    def forward(self, view: View, sizes: Sequence[int] | None = None) -> Hierarchy:
        """The stages that serve the class token, which is normalized in the last.

        Args:
            view: image float32 (B, 3, H, W) and segments int32 (B, H, W) with labels below ``sizes[0]``.
            sizes: other token budgets than the model's own, with the same weights (Table 5d).
        """
        return self.trace(view, sizes, stages=self.stages_with_cls)[0]

    def visit_blocks(self, view: View, visit: Visit) -> Hierarchy:
        """As :meth:`forward`; ``visit`` sees the tokens after each block, and may change what follows.

        The last class token is not yet normalized when it is visited.
        """
        return self.trace(view, stages=self.stages_with_cls, visit=visit)[0]

    def segment(self, view: View, sizes: Sequence[int] | None = None) -> Hierarchy:
        """All stages, also those that exist for the segmentation alone."""
        return self.trace(view, sizes, stages=len(self.sizes))[0]

    def dense(self, view: View, sizes: Sequence[int] | None = None) -> DenseTokens:
        """The tokens of all stages with a class token, at the finest tokens: float (B, N, stages * D).

        Those of the last stage are normalized as its class token is.
        """
        return self.stacked(view, self.trace(view, sizes, stages=self.stages_with_cls)[0])

    def stacked(self, view: View, hierarchy: Hierarchy) -> DenseTokens:
        """The tokens of :meth:`dense`, from the hierarchy of :meth:`forward` or :meth:`segment`."""
        stages = hierarchy.stages[: self.stages_with_cls]
        *earlier, last = (unpool(stage.x, hierarchy.parents(at)) for at, stage in enumerate(stages))
        return self.densely(view, hierarchy, torch.cat([*earlier, self.norm(last)], -1))

    def densely(self, view: View, hierarchy: Hierarchy, x: Tensor) -> DenseTokens:
        """The finest tokens of a hierarchy, with other features: float (B, N, D')."""
        grid = None
        rows, columns = (-(-side // self.stem.stride) for side in view.image.shape[-2:])
        if self.config.superpixels == f"grid:cell={self.stem.stride}" and x.shape[1] == rows * columns:
            grid = rows, columns
        return DenseTokens(x, hierarchy.stages[0].mass, hierarchy.segments, grid)

    def trace(
        self, view: View, sizes: Sequence[int] | None = None, *, stages: int, visit: Visit | None = None
    ) -> tuple[Hierarchy, tuple[Pooled, ...]]:
        """The hierarchy of the first ``stages`` stages, and what each pooling between them returned.

        ``visit`` is called after each block, see :meth:`visit_blocks`.

        Raises:
            ContractError: if this is not a view, its shapes do not fit, or (on a processor) a label is
                not below ``sizes[0]``, see :meth:`labels_of` and :mod:`castssl.superpixel_labels`.
        """
        check_view(view, self.config.channels, resized=self.resized_segments)
        sampled = sizes is not None
        sizes = self.sizes if sizes is None else tuple(sizes)
        view = view._replace(segments=self.labels_of(view, sizes[0], sampled=sampled))
        tokens = self.tokenise(view, sizes[0])
        seen: list[Tokens] = []
        pooled: list[Pooled] = []
        for i in range(stages):
            if i:
                pooled.append(self.pooling(i - 1)(tokens, sizes[i]))
                # Not a matrix product: autocast would take it to half precision, and lose mass.
                mass = (pooled[-1].assign.float() * tokens.mass[..., None]).sum(1)
                tokens = Tokens(pooled[-1].x, pooled[-1].cls, mass, bias=pooled[-1].bias)
            needs = self.pooling(i).needs if i < stages - 1 else ()
            tokens = self.stages[i](tokens, needs, None if visit is None else partial(visit, i))
            normed = self.norm(tokens.cls) if i == self.stages_with_cls - 1 else tokens.cls
            seen.append(tokens._replace(cls=normed))
        return Hierarchy(view.segments, tuple(seen), tuple(p.assign for p in pooled)), tuple(pooled)

    def labels_of(self, view: View, size: int, *, sampled: bool = False) -> Tensor:
        """The view's labels int (B, H, W); -1 in place of those that no token stands for.

        Args:
            view: what is looked at.
            size: how many tokens there are.
            sampled: with ``membership="nearest"`` only the labels that the stem's grid samples must be in
                range: the published models have as many tokens as the largest of these says, so that a
                superpixel between the samples may have a larger number.

        Raises:
            ContractError: on a processor, if a label is not in [0, size).
        """
        segments, whose = view.segments, f"the first size of {type(self).__name__}"
        segments = segments.int() if segments.dtype == torch.uint8 else segments  # -1 must fit
        if not sampled or self.membership == "area" or self.resized_segments:
            return bounded(segments, size, whose)
        height, width = (-(-side // self.stride) for side in view.image.shape[-2:])
        bounded(sample_labels(segments, height, width), size, whose)
        return segments.masked_fill((segments < 0) | (segments >= size), -1)

    def tokenise(self, view: View, size: int) -> Tokens:
        """Segment means of features and positions: ``size`` tokens per image; an absent label is padding."""
        features = self.stem(view.image)
        positions = resize(self.positions, *features.shape[-2:])
        features = features + positions.contiguous(memory_format=torch.channels_last)
        x, mass = segment_mean(features, view.segments, size, self.membership)
        return Tokens(x, self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), mass)

    def pooling(self, transition: int) -> Pooling:
        """The pooling after stage ``transition``; the identity where the sizes are equal."""
        pooling = self.poolings[transition]
        assert isinstance(pooling, Pooling)
        return pooling

    def initialize(self, *, trunc: bool) -> None:
        """MoCo v3's initialization (Xavier, qkv as three matrices), or truncated normals as in DeiT.

        Applies to blocks; poolings initialize themselves, except that MoCo's rule reaches their linear
        layers too in the released code, so it does here.
        """
        nn.init.normal_(self.cls_token, std=initialization.std(self.dim) if trunc else 1e-6)
        if self.positions.requires_grad:
            initialization.trunc_normal(self.positions, self.dim)
        if trunc:
            initialization.draw_as_deit(self.stages, self.dim)
        else:
            initialization.draw_as_moco(self.stages, self.poolings)


def _check(depths: Sequence[int], sizes: Sequence[int]) -> None:
    if len(depths) != len(sizes):
        raise ValueError(f"one size per stage: got depths {tuple(depths)} and sizes {tuple(sizes)}")
    if any(coarse > fine for fine, coarse in pairwise(sizes)) or min(sizes) < 1:
        raise ValueError(f"sizes go from fine to coarse and end at 1 or more, got {tuple(sizes)}")
    if not depths[0] or 0 in depths[: -1 if depths[-1] == 0 else None]:
        raise ValueError(f"only the last stage may have depth 0, got depths {tuple(depths)}")
