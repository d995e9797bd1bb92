"""Encoders by name: CAST in its published sizes, and the ViT baselines of Table 3a."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from castssl.encoder_config import EncoderConfig, plugin_config
from castssl.errors import ConfigError
from castssl.registry import did_you_mean

SMALL = EncoderConfig("cast_small")
DEEP = replace(SMALL, depths=(6, 3, 3, 3, 0))
DENSE: dict[str, Any] = {
    "sizes": (1024, 320, 160, 80, 40),
    "superpixels": "seeds:count=1024,bins=5,iterations=15",
    "fused": True,
    "dense": True,
}
GRID = "grid:cell=16"
VIT = replace(SMALL, depths=(11,), sizes=(196,), stride=16, superpixels=GRID)
_VIT_SUPERPIXELS = replace(VIT, stride=8, superpixels="seeds")
_VIT_POOLING = replace(SMALL, stride=16, superpixels=GRID)
_NANO = EncoderConfig(
    "cast_nano",
    depths=(1, 1, 1, 0),
    sizes=(64, 32, 16, 8),
    dim=64,
    heads=2,
    stride=4,
    superpixels="seeds:count=64,bins=5,iterations=4",
)
_NANO_VIT = replace(_NANO, depths=(1, 1, 1), sizes=(64, 64, 64), stride=8, superpixels="grid:cell=8")
PRESETS: dict[str, EncoderConfig] = {
    name: replace(config, name=name)
    for name, config in {
        "cast_small": SMALL,
        "cast_small_deep": DEEP,
        "cast_base": replace(SMALL, dim=768),
        "cast_base_deep": replace(DEEP, dim=768),
        "cast_small_seg": replace(SMALL, fused=True),
        "cast_small_deep_seg": replace(DEEP, fused=True),
        "cast_base_seg": replace(SMALL, dim=768, fused=True),
        "cast_base_deep_seg": replace(DEEP, dim=768, fused=True),
        "cast_small_dense": replace(SMALL, **DENSE),
        "cast_small_deep_dense": replace(DEEP, **DENSE),
        "cast_base_dense": replace(SMALL, dim=768, **DENSE),
        "cast_base_deep_dense": replace(DEEP, dim=768, **DENSE),
        "cast_nano": _NANO,
        "nano_vit": _NANO_VIT,
        "nano_seg": replace(_NANO, fused=True),
        "nano_vit_seg": replace(_NANO_VIT, depths=(3,), sizes=(64,), fused=True),
        "nano_vit_superpixels_seg": replace(_NANO, depths=(3,), sizes=(64,), fused=True),
        "nano_vit_pooling_seg": replace(_NANO, stride=8, superpixels="grid:cell=8", fused=True),
        "vit_small": VIT,
        "vit_base": replace(VIT, dim=768),
        "hier_vit_small": replace(VIT, depths=(3, 3, 3, 3), sizes=(196,) * 4),
        "vit_small_superpixels": _VIT_SUPERPIXELS,
        "vit_small_pooling": _VIT_POOLING,
        "vit_small_seg": replace(VIT, fused=True),
        "vit_small_superpixels_seg": replace(_VIT_SUPERPIXELS, fused=True),
        "vit_small_pooling_seg": replace(_VIT_POOLING, fused=True),
        "tome_small": replace(SMALL, depths=(1,) * 11, sizes=tuple(range(196, 35, -16))),
    }.items()
}
"""CAST-S, -S-deep, -B, -B-deep (Tables 4 and 11); ``*_seg`` for COCO; ``*_dense`` their segmentation stage
(VOC, ADE20K, Pascal Context: ``image_size=512``); Table 3a's ablation of two factors: ViT, ViT with
superpixels but no pooling, ViT patches with pooling, and CAST, which has both: all four also as
``*_seg``, with the same fusion, small and ``nano``; ``hier_vit_small``: twelve
blocks whose class token is read after every third (H-CAST's baseline Hier-ViT), and ``nano_vit``, the same
for ``cast_nano``; ``tome_small``: 16 tokens fewer after each layer, which is Table 5a's ToMe with
``pooling="tome"`` (of castssl-clustering)."""
ALIASES = {"nano": "cast_nano"}
"""Shorter names of presets."""


def find_config(name: str) -> EncoderConfig:
    """The config of a preset, or of ``KIND:NAME``, whose sizes and width the plugin KIND fills in.

    Raises:
        ConfigError: if the name is neither a preset nor has a kind.
    """
    if ":" in name:
        return plugin_config(name)
    if (full := ALIASES.get(name, name)) not in PRESETS:
        raise ConfigError(
            f"no model {name!r}{did_you_mean(name, [*PRESETS, *ALIASES])}  Models: {', '.join(PRESETS)}, and"
            " timm:NAME or another KIND:NAME of `castssl list encoders`"
        )
    return PRESETS[full]
