"""A published CAST model as a module that returns what the published code returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn

from castssl.contracts import Pooling
from castssl.errors import DataError
from castssl.models.cast import CAST
from castssl.models.fuse import FusedCAST
from castssl.registry import build
from castssl.tokens.segments import sample_labels
from castssl.transfer.weights import State, flatten, read, rename, stage_depths
from castssl.types import View

HEADS = 12
"""Attention heads of every published model, whatever its width."""


class Official(nn.Module):
    """An encoder in the published models' way, and the head that came with it.

    Attributes:
        variant: ``cast``, ``cast_deit`` or ``cast_seg``.
        encoder: the encoder, with ``padding="reference"``.
        head: classifier, MoCo projector, or the identity.
    """

    def __init__(self, variant: str, encoder: CAST, head: nn.Module) -> None:
        super().__init__()
        self.variant, self.encoder, self.head = variant, encoder, head

    def forward(self, image: Tensor, segments: Tensor) -> Tensor:
        """Logits (B, C).

        As in the released code, the batch's largest label sets the number of tokens, so a result depends
        on the batch; use ``encoder`` with ``padding="mask"`` for results that do not.

        Args:
            image: normalised float (B, 3, H, W).
            segments: int (B, H, W).
        """
        view = View(image, segments)
        logits: Tensor = self.head(self.encoder(view, self.sizes(view)).stages[-1].cls[:, 0])
        return logits

    def sizes(self, view: View) -> tuple[int, ...]:
        """The token counts that the released code would use: largest sampled label + 1, then the clusters."""
        stride = self.encoder.stem.stride
        height, width = (-(-side // stride) for side in view.image.shape[-2:])
        count = int(sample_labels(view.segments, height, width).max()) + 1
        return (count, *self.encoder.sizes[1:])


def load_official(
    source: str | Path | Mapping[str, Any],
    *,
    sizes: Sequence[int] = (196, 64, 32, 16, 8),
    branch: Literal["base", "momentum"] = "base",
) -> Official:
    """Load a published CAST checkpoint, in evaluation mode and with the published padding.

    Args:
        source: a file, or a state dict in the published layout (with or without ``module.`` and
            ``base_encoder.`` prefixes; any of the three spellings of the block keys).
        sizes: token budget per stage, which a checkpoint does not hold; the first may be left out, because
            the labels decide on it.
        branch: which encoder of a MoCo checkpoint.

    Raises:
        DataError: if the file is not a CAST checkpoint, has keys that belong nowhere, lacks some, or holds
            objects other than tensors and plain values.
    """
    state = flatten(read(source) if isinstance(source, str | Path) else source, branch)
    variant = recognise(state)
    depths = stage_depths(state)
    ours = rename(state, depths)
    head = _head(ours)
    cls_extra = ours.pop("pe_token", None)
    if cls_extra is not None:
        ours["cls_token"] = ours["cls_token"] + cls_extra
    budget = (max(196, sizes[0]), *sizes) if len(sizes) == len(depths) else tuple(sizes)
    encoder = _encoder(variant, ours, depths, budget)
    _fit_positions(ours, encoder)
    missing, strange = encoder.load_state_dict(ours, strict=False)
    if missing or strange:
        raise DataError(f"checkpoint of variant {variant}: missing {missing[:5]}, left over {strange[:5]}")
    # A checkpoint's dtype is kept: float64 parity stays float64.
    return Official(variant, encoder, head).to(ours["cls_token"].dtype).eval()


def recognise(state: Mapping[str, Tensor]) -> str:
    """The published variant, from its keys.

    Raises:
        DataError: for variants that are not supported yet.
    """
    if "family_head.weight" in state:
        raise DataError("this is an H-CAST checkpoint (cast_deit_hier), which castssl cannot load yet")
    fused = any(key.startswith("block_fusion.") for key in state)
    if fused and "pe_token" not in state:
        raise DataError("this is a Segmenter encoder (cast_seg_deit), which castssl cannot load yet")
    if fused:
        return "cast_seg"
    return "cast" if "pe_token" in state else "cast_deit"


def _encoder(variant: str, ours: State, depths: tuple[int, ...], sizes: tuple[int, ...]) -> CAST:
    dim = ours["cls_token"].shape[-1]
    cells = ours["pos_embed"].shape[1] - (variant == "cast_deit")

    def make_pooling(dim: int) -> Pooling:
        pooling: Pooling = build("pooling", "graph", dim, heads=HEADS, padding="reference", exact=True)
        return pooling

    model = FusedCAST if variant == "cast_seg" else CAST
    return model(
        (*depths, 0),
        sizes,
        make_pooling,
        dim=dim,
        heads=HEADS,
        image_size=8 * round(cells**0.5),
        padding="reference",
        positions="learned" if variant == "cast_deit" else "sincos",
    )


def _fit_positions(ours: State, encoder: CAST) -> None:
    """The published table is (1, cells, D), in DeiT models after a row for the class token."""
    table = ours.pop("pos_embed")
    if encoder.positions.requires_grad:
        ours["cls_token"] = ours["cls_token"] + table[:, :1]
        table = table[:, 1:]
    side = encoder.positions.shape[-1]
    ours["positions"] = table.transpose(1, 2).reshape(1, -1, side, side)


def _head(ours: State) -> nn.Module:
    """Take the head's tensors out: a classifier, a three-layer projector, or nothing."""
    taken = {k.removeprefix("head."): ours.pop(k) for k in list(ours) if k.startswith("head.")}
    if not taken:
        return nn.Identity()
    if "weight" in taken:
        classes, dim = taken["weight"].shape
        head: nn.Module = nn.Linear(dim, classes)
    else:
        (hidden, dim), out = taken["0.weight"].shape, taken["6.weight"].shape[0]
        rows = [(dim, hidden), (hidden, hidden), (hidden, out)]
        norms = [nn.BatchNorm1d(hidden), nn.BatchNorm1d(hidden), nn.BatchNorm1d(out, affine=False)]
        acts = [nn.ReLU(), nn.ReLU(), None]
        head = ProjectionHead([(*r, n, a) for r, n, a in zip(rows, norms, acts, strict=True)])
        taken = {f"layers.{k}": v for k, v in taken.items()}
    head.load_state_dict(taken)
    return head
