"""The released code's state dicts: which names and shapes a model variant has, and what we call them.

The released classification models keep every block twice, under ``blocks.{g}`` and ``blocks{s}.{g}`` with a
global index g; the segmentation model, and older files, once under ``blocks{s}.{local}``.  The *plain* names
used here hold each block once, under ``blocks.{g}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Literal

from torch import Tensor

from castssl.errors import DataError

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Variant = Literal["cast", "cast_deit", "cast_deit_hier", "cast_seg", "cast_seg_deit"]
FUSED = ("cast_seg", "cast_seg_deit")
LEARNED = ("cast_deit", "cast_deit_hier", "cast_seg_deit")
"""Variants whose position table is learned, with a row for the class token before the cells'."""
COARSER = ("family_head", "manufacturer_head")
"""H-CAST's heads beside ``head``, which is the finest level's; without the second there are two levels."""
LEVELS = ("head", *COARSER)
"""The published classifiers, fine to coarse."""
BLOCK = re.compile(r"blocks(\d*)\.(\d+)\.(.+)")
_STEM = (0, 3, 6, 9)


@dataclass(frozen=True)
class Layout:
    """What has to be in a state dict.

    Args:
        variant: the published model's name.
        dim: token width D.
        depths: blocks per stage.
        rows: rows of the position table.
        heads: shapes of the heads' tensors, by published name; a head may be any or none.
    """

    variant: Variant
    dim: int
    depths: tuple[int, ...]
    rows: int
    heads: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def learned(self) -> bool:
        """True where the position table is trained."""
        return self.variant in LEARNED

    @property
    def side(self) -> int:
        """Rows of the square grid that the position table is for.

        Raises:
            DataError: if the table is for no square.
        """
        cells = self.rows - self.learned
        side = isqrt(max(cells, 0))
        if not cells or side * side != cells:
            slot = ", after one for the class token" if self.learned else ""
            raise DataError(f"pos_embed of a {self.variant} has {self.rows} rows; expected a square{slot}")
        return side

    @cached_property
    def shapes(self) -> Shapes:
        """Plain published names and shapes."""
        dim, found = self.dim, Shapes()
        found["cls_token"] = (1, 1, dim)
        found["pos_embed"] = (1, self.rows, dim)
        if not self.learned:
            found["pe_token"] = (1, 1, dim)
        found |= _under("patch_embed.proj.", _stem(dim))
        for g in range(sum(self.depths)):
            found |= _under(f"blocks.{g}.", _block(dim))
        for p in range(len(self.depths)):
            found |= _under(f"pool{p + 1}.pool_block.", _pool(dim))
        if self.variant != "cast_seg":
            found |= {"norm.weight": (dim,), "norm.bias": (dim,)}
        if self.variant in FUSED:
            found |= _under("block_fusion.proj_blocks.", _fusion(dim, len(self.depths)))
        return found | dict(self.heads)

    def spelt(self, name: str) -> tuple[str, ...]:
        """The names that the released code writes for a plain one."""
        found = BLOCK.fullmatch(name)
        if not found:
            return (name,)
        g, rest = int(found[2]), found[3]
        stage = next(s for s in range(len(self.depths)) if g < sum(self.depths[: s + 1]))
        if self.variant == "cast_seg":
            return (f"blocks{stage + 1}.{g - sum(self.depths[:stage])}.{rest}",)
        return (name, f"blocks{stage + 1}.{g}.{rest}")

    def ours(self, name: str) -> str | None:
        """Our encoder's name for a plain one; None for what is no part of the encoder."""
        if name == "pe_token" or name.startswith(("head.", *COARSER)):
            return None
        if name.startswith("norm."):
            return None if self.variant in FUSED else name
        if name == "pos_embed":
            return "positions"
        if found := BLOCK.fullmatch(name):
            g = int(found[2])
            stage = next(s for s in range(len(self.depths)) if g < sum(self.depths[: s + 1]))
            return f"stages.{stage}.blocks.{g - sum(self.depths[:stage])}.{found[3]}"
        if found := re.fullmatch(r"pool(\d+)\.pool_block\.(centroid_fc\.)?(.+)", name):
            return f"poolings.{int(found[1]) - 1}.{found[3]}"
        for old, new in _RENAMED.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name


_RENAMED = {
    "patch_embed.proj.": "stem.layers.",
    "block_fusion.proj_blocks.0.norm.": "fusion.norm.",
    "block_fusion.proj_blocks.2.": "fusion.linear.",
}


def recognize(state: Mapping[str, Tensor]) -> Variant:
    """The published variant, from its keys.

    H-CAST is told by its second head, segmentation by the fusion, MoCo by ``pe_token``.
    """
    if any(key.startswith(COARSER) for key in state):
        return "cast_deit_hier"
    if any(key.startswith("block_fusion.") for key in state):
        return "cast_seg" if "pe_token" in state else "cast_seg_deit"
    return "cast" if "pe_token" in state else "cast_deit"


def stage_depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks per stage, counted from the keys; a bare ``blocks.{g}`` layout is one of two known depths.

    Raises:
        DataError: if only ``blocks.{g}`` is there and its count is neither 11 nor 15, or a stage is missing.
    """
    members: dict[int, set[int]] = {}
    for key in state:
        if found := BLOCK.fullmatch(key):
            members.setdefault(int(found[1] or 0), set()).add(int(found[2]))
    if staged := sorted(s for s in members if s):
        if gaps := set(range(1, staged[-1] + 1)) - set(staged):
            raise DataError(f"no blocks{min(gaps)}.* in this checkpoint, but blocks{staged[-1]}.*")
        return tuple(len(members[s]) for s in staged)
    known = {11: (3, 3, 3, 2), 15: (6, 3, 3, 3)}
    count = len(members.get(0, ()))
    if count not in known:
        raise DataError(f"{count} blocks without stage numbers; expected 11 (S, B) or 15 (deep)")
    return known[count]


def head_shapes(state: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What the heads in ``state`` have to consist of, judged by their first tensors.

    A ``head`` is a classifier, MoCo's projector of three layers, or absent.
    """
    dim = state["cls_token"].shape[-1]
    names = [name for name in ("head", *COARSER) if any(key.startswith(f"{name}.") for key in state)]
    for name in names:
        first, last = state.get(f"{name}.0.weight"), state.get(f"{name}.6.weight")
        if name == "head" and (first is not None or last is not None):
            hidden = 0 if first is None else first.shape[0]
            out = 0 if last is None else last.shape[0]
            yield from _under("head.", projector(dim, hidden, out)).items()
            continue
        weight = state.get(f"{name}.weight", state.get(f"{name}.bias"))
        classes = 0 if weight is None else weight.shape[0]
        yield f"{name}.weight", (classes, dim)
        yield f"{name}.bias", (classes,)


def projector(dim: int, hidden: int, out: int) -> Shapes:
    """MoCo's head of three layers."""
    shapes: Shapes = {"0.weight": (hidden, dim), "3.weight": (hidden, hidden), "6.weight": (out, hidden)}
    shapes |= _under("1.", _norm(hidden)) | _under("4.", _norm(hidden))
    return shapes | _under("7.", _norm(out, affine=False))


def predictor(hidden: int, out: int) -> Shapes:
    """MoCo's predictor of two layers."""
    shapes: Shapes = {"0.weight": (hidden, out), "3.weight": (out, hidden)}
    return shapes | _under("1.", _norm(hidden)) | _under("4.", _norm(out, affine=False))


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def _norm(width: int, *, affine: bool = True) -> Shapes:
    names = ("weight", "bias", "running_mean", "running_var")[0 if affine else 2 :]
    return dict.fromkeys(names, (width,)) | {"num_batches_tracked": ()}


def _stem(dim: int) -> Shapes:
    shapes, width = Shapes(), 3
    for index, wider in zip(_STEM, (dim // 8, dim // 4, dim // 2, dim), strict=True):
        shapes |= {f"{index}.weight": (wider, width, 3, 3)} | _under(f"{index + 1}.", _norm(wider))
        width = wider
    return shapes | {"12.weight": (dim, dim, 1, 1), "12.bias": (dim,)}


def _linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _attention(dim: int) -> Shapes:
    return _linear("attn.qkv", 3 * dim, dim) | _linear("attn.proj", dim, dim)


def _layer_norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _block(dim: int) -> Shapes:
    mlp = _linear("mlp.fc1", 4 * dim, dim) | _linear("mlp.fc2", dim, 4 * dim)
    return _layer_norm("norm1", dim) | _attention(dim) | _layer_norm("norm2", dim) | mlp


def _pool(dim: int) -> Shapes:
    centroid = {"bias": (dim,)} | _layer_norm("norm", dim) | _attention(dim)
    first = _layer_norm("fc1.0", dim) | _linear("fc1.1", 4 * dim, dim)
    second = _layer_norm("fc2.0", 4 * dim) | _linear("fc2.1", dim, 4 * dim)
    return _under("centroid_fc.", centroid) | first | second


def _fusion(dim: int, stages: int) -> Shapes:
    return _under("0.norm.", _norm(dim * stages)) | _linear("2", dim, dim * stages)
