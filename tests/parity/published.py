"""The published state-dict layout, written from its description: names and shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from castssl.checkpoints.official_layout import Layout, find_variant, merge_spellings
from castssl.checkpoints.report import Report
from castssl.tokens.positions import sin_cos
from tests.parity import filler


def _block(dim: int) -> dict[str, tuple[int, ...]]:
    return {
        "norm1.weight": (dim,),
        "norm1.bias": (dim,),
        "attn.qkv.weight": (3 * dim, dim),
        "attn.qkv.bias": (3 * dim,),
        "attn.proj.weight": (dim, dim),
        "attn.proj.bias": (dim,),
        "norm2.weight": (dim,),
        "norm2.bias": (dim,),
        "mlp.fc1.weight": (4 * dim, dim),
        "mlp.fc1.bias": (4 * dim,),
        "mlp.fc2.weight": (dim, 4 * dim),
        "mlp.fc2.bias": (dim,),
    }


def _pool(dim: int) -> dict[str, tuple[int, ...]]:
    names = {f"centroid_fc.{k}": v for k, v in _block(dim).items() if k.startswith("attn.")}
    return names | {
        "centroid_fc.norm.weight": (dim,),
        "centroid_fc.norm.bias": (dim,),
        "centroid_fc.bias": (dim,),
        "fc1.0.weight": (dim,),
        "fc1.0.bias": (dim,),
        "fc1.1.weight": (4 * dim, dim),
        "fc1.1.bias": (4 * dim,),
        "fc2.0.weight": (4 * dim,),
        "fc2.0.bias": (4 * dim,),
        "fc2.1.weight": (dim, 4 * dim),
        "fc2.1.bias": (dim,),
    }


def _stem(dim: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    width = 3
    for i, wider in zip((0, 3, 6, 9), (dim // 8, dim // 4, dim // 2, dim), strict=True):
        shapes[f"{i}.weight"] = (wider, width, 3, 3)
        shapes |= {f"{i + 1}.{k}": (wider,) for k in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{i + 1}.num_batches_tracked"] = ()
        width = wider
    return shapes | {"12.weight": (dim, dim, 1, 1), "12.bias": (dim,)}


def cast_shapes(dim: int = 384, blocks: int = 11, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of ``cast``, every block once, by its global index."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim), "pe_token": (1, 1, dim)}
    shapes |= {f"patch_embed.proj.{k}": v for k, v in _stem(dim).items()}
    for g in range(blocks):
        shapes |= {f"blocks.{g}.{k}": v for k, v in _block(dim).items()}
    for p in range(1, 5):
        shapes |= {f"pool{p}.pool_block.{k}": v for k, v in _pool(dim).items()}
    shapes |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    return shapes | {"head.weight": (classes, dim), "head.bias": (classes,)}


def variant_shapes(variant: str, *, dim: int = 384, blocks: int = 11) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of any variant, without heads; every block once, by its global index."""
    shapes = {k: v for k, v in cast_shapes(dim, blocks).items() if not k.startswith("head.")}
    if variant not in {"cast", "cast_seg"}:
        del shapes["pe_token"]
    if variant == "cast_seg":
        del shapes["norm.weight"], shapes["norm.bias"]
    if variant in {"cast_seg", "cast_seg_deit"}:
        norm = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"block_fusion.proj_blocks.0.norm.{k}": (4 * dim,) for k in norm}
        shapes["block_fusion.proj_blocks.0.norm.num_batches_tracked"] = ()
        shapes["block_fusion.proj_blocks.2.weight"] = (dim, 4 * dim)
        shapes["block_fusion.proj_blocks.2.bias"] = (dim,)
    return shapes


def heads(*classes: int, dim: int = 384) -> dict[str, tuple[int, ...]]:
    """Names and shapes of linear heads; with two or three numbers those of H-CAST, finest first."""
    names = ("head", "family_head", "manufacturer_head")[: len(classes)]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, count in zip(names, classes, strict=True):
        shapes |= {f"{name}.weight": (count, dim), f"{name}.bias": (count,)}
    return shapes


def zeros(shapes: dict[str, tuple[int, ...]], dim: int = 384, side: int = 28) -> dict[str, Tensor]:
    """A state dict of zeros, with the fixed sin-cos table."""
    state = {
        k: torch.zeros(s, dtype=torch.int64 if k.endswith("num_batches_tracked") else torch.float32)
        for k, s in shapes.items()
    }
    state["pos_embed"] = sin_cos(dim, side, side).flatten(2).transpose(1, 2).contiguous()
    if "pe_token" not in shapes:
        state["pos_embed"] = torch.zeros(1, 1 + side * side, dim)
    return state


def filled(shapes: dict[str, tuple[int, ...]], dim: int = 384, side: int = 28) -> dict[str, Tensor]:
    """A state dict of the filler's values; a fixed position table stays as it is."""
    fixed = {"pos_embed"} if "pe_token" in shapes else set()
    return {k: v if k in fixed else filler.fill(k, v) for k, v in zeros(shapes, dim, side).items()}


def spell(state: dict[str, Tensor], depths: tuple[int, ...], how: str) -> dict[str, Tensor]:
    """Block keys as ``head`` (both, as released), ``bare`` (blocks.g), ``global`` or ``local``."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.startswith("blocks."):
            out[key] = value
            continue
        _, g, rest = key.split(".", 2)
        stage = next(s for s in range(len(depths)) if int(g) < sum(depths[: s + 1]))
        local = int(g) - sum(depths[:stage])
        if how in {"head", "bare"}:
            out[key] = value
        if how in {"head", "global"}:
            out[f"blocks{stage + 1}.{g}.{rest}"] = value
        if how == "local":
            out[f"blocks{stage + 1}.{local}.{rest}"] = value
    return out


def encoder_name(key: str) -> str:
    """castssl's name of a tensor in a published model of one block a stage, in any spelling."""
    depths = (1, 1, 1, 1)
    (plain,) = state = merge_spellings({key: torch.empty(0)}, depths, Report())
    return Layout(find_variant(state), 24, depths, 1).encoder_names.get(plain, plain)
