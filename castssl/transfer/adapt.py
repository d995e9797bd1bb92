"""A checkpoint for another use: other image sizes, and the Segmenter's encoder from DeiT's model."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.errors import DataError
from castssl.transfer.layout import FUSED, Layout
from castssl.transfer.ours import STRIDE
from castssl.transfer.weights import Published

Stage = Literal["pretrain", "segmentation"]


def adapt(published: Published, stage: Stage | None, image_size: int | None) -> Published:
    """The same checkpoint as a Segmenter's encoder, or with a position table for another image size.

    Raises:
        DataError: if the variant has no such stage, or the side is no multiple of the stem's stride.
    """
    variant, layout = published.layout.variant, published.layout
    if stage == "segmentation" and variant == "cast_deit":
        published = _with_fusion(published)
    elif stage == "segmentation" and variant not in FUSED:
        raise DataError(f"{variant} has no segmentation stage; only cast_seg, cast_seg_deit and cast_deit do")
    elif stage == "pretrain" and variant == "cast_seg_deit":
        raise DataError("cast_seg_deit has the segmentation stage only; leave stage out")
    if image_size is None or image_size == layout.side * STRIDE:
        return published
    if image_size % STRIDE or image_size < STRIDE:
        raise DataError(f"image_size must be a multiple of {STRIDE} pixels, got {image_size}")
    side = image_size // STRIDE
    parts = [
        part and part | {"pos_embed": resize_table(layout, part["pos_embed"], side)}
        for part in (published.state, published.twin)
    ]
    published.report.changed["pos_embed"] = f"grid {layout.side} x {layout.side} -> {side} x {side}, bicubic"
    resized = replace(layout, variant=published.layout.variant, rows=parts[0]["pos_embed"].shape[1])
    return replace(published, layout=resized, state=parts[0], twin=parts[1])


def resize_table(layout: Layout, table: Tensor, side: int) -> Tensor:
    """A published position table (1, rows, D) for another grid; the class token's row stays as it is."""
    slot, cells = table[:, : layout.learned], table[:, layout.learned :]
    square = cells.transpose(1, 2).reshape(1, -1, layout.side, layout.side)
    square = F.interpolate(square, (side, side), mode="bicubic", align_corners=False)
    return torch.cat([slot, square.flatten(2).transpose(1, 2)], 1)


def _with_fusion(published: Published) -> Published:
    """DeiT's model becomes the Segmenter's encoder; the fusion starts as PyTorch initialises it."""
    old = published.layout
    wide = old.dim * len(old.depths)
    fresh = {"0.norm": nn.BatchNorm1d(wide), "2": nn.Linear(wide, old.dim)}
    state = dict(published.state)
    for name, module in fresh.items():
        dtype = state["cls_token"].dtype
        for key, value in module.to(dtype).state_dict().items():
            state[f"block_fusion.proj_blocks.{name}.{key}"] = value
    published.report.variant = "cast_seg_deit"
    published.report.changed["block_fusion.*"] = "not in a cast_deit: initialised, to be trained"
    return replace(published, layout=replace(old, variant="cast_seg_deit"), state=state)
