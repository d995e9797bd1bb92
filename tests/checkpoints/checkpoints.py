"""Small checkpoints in the published layout: real names and wrappers, few channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.parity import published

DIM, HIDDEN, OUT, SIDE = 48, 8, 4, 4
SIZES = (16, 9, 6, 4, 2)
DEPTHS = {11: (3, 3, 3, 2), 15: (6, 3, 3, 3)}
VARIANTS = ("cast", "cast_deit", "cast_deit_hier", "cast_seg", "cast_seg_deit")


def state(
    variant: str, *classes: int, blocks: int = 11, dim: int = DIM, side: int = SIDE, seed: int = 0
) -> dict[str, Tensor]:
    """A state dict as the released code writes it, random; ``classes`` are those of its linear heads."""
    shapes = published.variant_shapes(variant, dim=dim, blocks=blocks) | published.heads(*classes, dim=dim)
    found = published.zeros(shapes, dim, side)
    torch.manual_seed(seed)
    fixed = {"pos_embed", "pe_token"} if "pe_token" in shapes else set()
    filled = {
        key: 0.1 * torch.randn(value.shape) if value.is_floating_point() else value + 7
        for key, value in found.items()
    }
    filled |= {key: value + 1 for key, value in filled.items() if "running_var" in key or "norm" in key}
    filled |= {key: found[key] for key in fixed}
    return published.spell(filled, DEPTHS[blocks], "local" if variant == "cast_seg" else "head")


def layers(dim: int, *widths: int) -> dict[str, Tensor]:
    """MoCo's projector or predictor, by published names: no bias, the last norm without parameters."""
    found: dict[str, Tensor] = {}
    for i, width in enumerate(widths):
        found[f"{3 * i}.weight"] = torch.randn(width, dim)
        names = ["running_mean", "running_var"] + (["weight", "bias"] if i < len(widths) - 1 else [])
        found |= {f"{3 * i + 1}.{name}": torch.rand(width) + 0.5 for name in names}
        found[f"{3 * i + 1}.num_batches_tracked"] = torch.tensor(3)
        dim = width
    return found


def moco(variant: str = "cast", *, blocks: int = 11, dim: int = DIM, side: int = SIDE) -> dict[str, Any]:
    """A MoCo checkpoint, with what lies beside the model."""
    whole: dict[str, Tensor] = {}
    for seed, branch in enumerate(("base_encoder", "momentum_encoder")):
        part = state(variant, blocks=blocks, dim=dim, side=side, seed=seed)
        part |= {f"head.{key}": value for key, value in layers(dim, HIDDEN, HIDDEN, OUT).items()}
        whole |= {f"module.{branch}.{key}": value for key, value in part.items()}
    whole |= {f"module.predictor.{key}": value for key, value in layers(OUT, HIDDEN, OUT).items()}
    rest = {"optimizer": {"state": {0: {"step": 5}}, "param_groups": []}, "scaler": {"scale": 2.0}}
    return {"epoch": 100, "arch": variant, "state_dict": whole, **rest}
