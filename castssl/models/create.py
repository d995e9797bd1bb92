"""Models by name: CAST in its published sizes, the ViT baselines of Table 3a, any timm model, and CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, cast

from castssl.errors import ConfigError
from castssl.modes import kept_random_state
from castssl.registry import build

if TYPE_CHECKING:
    from castssl.contracts import Encoder, Pooling
    from castssl.models.clip_encoder import ClipEncoder
    from castssl.models.timm_encoder import TimmEncoder
    from castssl.tokens.segments import Membership


@dataclass(frozen=True)
class Preset:
    """What a model name stands for.

    ``superpixels`` is the backend that the name implies; ``fused`` the segmentation variant, ``dense`` its
    stage at the label map's resolution.
    """

    depths: tuple[int, ...] = (3, 3, 3, 2, 0)
    sizes: tuple[int, ...] = (196, 64, 32, 16, 8)
    dim: int = 384
    heads: int = 12
    stride: int = 8
    superpixels: str = "seeds"
    fused: bool = False
    dense: bool = False


SMALL = Preset()
DEEP = replace(SMALL, depths=(6, 3, 3, 3, 0))
DENSE, FINE = (1024, 320, 160, 80, 40), "seeds:count=1024,bins=5,iterations=15"
VIT = Preset(depths=(11,), sizes=(196,), stride=16, superpixels="grid:cell=16")
PRESETS: dict[str, Preset] = {
    "cast_small": SMALL,
    "cast_small_deep": DEEP,
    "cast_base": replace(SMALL, dim=768),
    "cast_base_deep": replace(DEEP, dim=768),
    "cast_small_seg": replace(SMALL, fused=True),
    "cast_small_deep_seg": replace(DEEP, fused=True),
    "cast_base_seg": replace(SMALL, dim=768, fused=True),
    "cast_base_deep_seg": replace(DEEP, dim=768, fused=True),
    "cast_small_dense": replace(SMALL, sizes=DENSE, superpixels=FINE, fused=True, dense=True),
    "cast_small_deep_dense": replace(DEEP, sizes=DENSE, superpixels=FINE, fused=True, dense=True),
    "cast_base_dense": replace(SMALL, dim=768, sizes=DENSE, superpixels=FINE, fused=True, dense=True),
    "cast_base_deep_dense": replace(DEEP, dim=768, sizes=DENSE, superpixels=FINE, fused=True, dense=True),
    "nano": Preset((1, 1, 1, 0), (64, 32, 16, 8), 64, 2, 4, "seeds:count=64,bins=5,iterations=4"),
    "nano_vit": Preset((1, 1, 1), (64, 64, 64), 64, 2, 8, "grid:cell=8"),
    "vit_small": VIT,
    "vit_base": replace(VIT, dim=768),
    "hier_vit_small": replace(VIT, depths=(3, 3, 3, 3), sizes=(196,) * 4),
    "vit_small_superpixels": replace(VIT, stride=8, superpixels="seeds"),
    "vit_small_pooling": replace(SMALL, stride=16, superpixels="grid:cell=16"),
    "tome_small": replace(SMALL, depths=(1,) * 11, sizes=tuple(range(196, 35, -16))),
}
"""CAST-S, -S-deep, -B, -B-deep (Table 11 and 4); ``*_seg`` for COCO; ``*_dense`` their
segmentation stage (VOC, ADE20K, Pascal Context: ``image_size=512``); Table 3a's two-factor ablation: ViT,
ViT with superpixels but no pooling, ViT patches with pooling, and CAST, which has both; ``hier_vit_small``:
twelve blocks whose class token is at hand after every third (H-CAST's baseline Hier-ViT), and ``nano_vit``,
the same beside ``nano``; ``tome_small``: 16 tokens fewer after each layer, which is Table 5a's ToMe if
``pooling="tome"`` (of castssl-clustering) is given."""


def preset(name: str) -> Preset:
    """The preset of a model name; timm models and CLIP share the ViT's grid.

    Raises:
        ConfigError: if the name is neither a preset nor ``timm:...`` nor ``clip:...``.
    """
    if name.startswith(("timm:", "clip:")):
        return VIT
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no model {name!r}{hint}  Models: {', '.join(PRESETS)}, timm:NAME, clip:NAME")
    return PRESETS[name]


def create(
    name: str,
    *,
    pooling: str = "graph",
    sizes: Sequence[int] | None = None,
    image_size: int = 224,
    membership: Membership = "nearest",
    padding: Literal["mask", "reference"] = "mask",
    positions: Literal["sincos", "learned"] = "sincos",
    drop_path: float = 0.0,
    advance: bool = False,
) -> Encoder:
    """Build an encoder by name.

    The weights are a function of torch's global random state (``torch.manual_seed``), which is left as it
    was; two calls in a row therefore give the same weights.

    Args:
        name: a key of :data:`PRESETS`, ``timm:NAME``, or ``clip:ARCHITECTURE/WEIGHTS`` (see
            :func:`castssl.models.clip_encoder.load_clip`).
        pooling: spec of a registered pooling, such as ``graph`` or ``graph:centroids=random``.
        sizes: token budgets in place of the preset's, for instance ``(196, 128, 64, 32)``; a model whose
            preset ends in a stage without blocks gets that stage at half the last size if it is left out.
            Of timm's ViTs: their number of patches, once for each stage, such as ``(196,) * 4``.
        image_size: side in pixels.
        membership: how stem cells belong to superpixels.
        padding: ``"mask"`` or ``"reference"``.
        positions: ``"sincos"`` or ``"learned"``.
        drop_path: stochastic depth of the last block.
        advance: leave the global random state behind the numbers drawn, as torch's own modules do; for a
            recipe, which draws its heads after the encoder from the same stream.

    Raises:
        ConfigError: if the name is unknown or the sizes do not fit the depths.
    """
    options: dict[str, Any] = {
        "pooling": pooling,
        "sizes": sizes,
        "image_size": image_size,
        "membership": membership,
        "padding": padding,
        "positions": positions,
    }
    with nullcontext() if advance else kept_random_state():
        return _draw(name, options, drop_path)


def _draw(name: str, options: dict[str, Any], drop_path: float) -> Encoder:
    from castssl.models.hub import remember

    if name.startswith("timm:"):
        return cast("Encoder", _timm(name, options["sizes"], options["image_size"], drop_path))
    if name.startswith("clip:"):
        return cast("Encoder", _clip(name, options["image_size"]))
    encoder = assemble(preset(name), drop_path=drop_path, **options)
    remember(encoder, name=name, superpixels=preset(name).superpixels, **options)
    return encoder


def _timm(name: str, sizes: Sequence[int] | None, image_size: int, drop_path: float) -> TimmEncoder:
    from castssl.models.hub import remember
    from castssl.models.timm_encoder import TimmEncoder

    given = {} if sizes is None else {"sizes": tuple(sizes)}
    try:
        encoder = TimmEncoder(
            name.removeprefix("timm:"),
            image_size=image_size,
            drop_path=drop_path,
            stages=len(sizes or (0,)),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if given.get("sizes", encoder.sizes) != encoder.sizes:
        raise ConfigError(
            f"{name} has {encoder.sizes[0]} tokens at {image_size} pixels in every stage, got sizes"
            f" {given['sizes']}: give {encoder.sizes[0]} once for each stage, or leave them out"
        )
    remember(encoder, name=name, image_size=image_size, superpixels=VIT.superpixels, **given)
    return encoder


def _clip(name: str, image_size: int) -> ClipEncoder:
    from castssl.models.clip_encoder import load_clip
    from castssl.models.hub import remember

    encoder = load_clip(name.removeprefix("clip:"), image_size=image_size)
    remember(encoder, name=unloaded(name), image_size=image_size, superpixels=VIT.superpixels)
    return encoder


def unloaded(name: str) -> str:
    """The name of the same model without weights to download, for whoever has its weights in a file."""
    if not name.startswith("clip:"):
        return name
    from castssl.models.clip_encoder import named

    return f"clip:{named(name.removeprefix('clip:')).architecture}"


def assemble(
    chosen: Preset,
    *,
    pooling: str = "graph",
    sizes: Sequence[int] | None = None,
    image_size: int = 224,
    membership: Membership = "nearest",
    padding: Literal["mask", "reference"] = "mask",
    positions: Literal["sincos", "learned"] = "sincos",
    drop_path: float = 0.0,
) -> Encoder:
    """Build an encoder of a shape that need not have a name; the options are those of :func:`create`.

    Raises:
        ConfigError: if the sizes do not fit the depths, or the width not the heads.
    """
    from castssl.models.cast import CAST
    from castssl.models.dense import DenseCAST
    from castssl.models.fuse import FusedCAST

    def make_pooling(dim: int) -> Pooling:
        built: Pooling = build("pooling", pooling, dim)
        return built

    model = DenseCAST if chosen.dense else FusedCAST if chosen.fused else CAST
    try:
        built = model(
            chosen.depths,
            fit_sizes(chosen, sizes),
            make_pooling,
            dim=chosen.dim,
            heads=chosen.heads,
            image_size=image_size,
            stride=chosen.stride,
            membership=membership,
            padding=padding,
            positions=positions,
            drop_path=drop_path,
        )
    except ValueError as error:
        raise ConfigError(f"{error}; asked for {chosen}") from error
    return cast("Encoder", built)


def fit_sizes(chosen: Preset, sizes: Sequence[int] | None) -> tuple[int, ...]:
    """The sizes of a preset, or the user's, completed for a last stage that exists for segmentation alone."""
    if sizes is None:
        return chosen.sizes
    if len(sizes) == len(chosen.depths) - 1 and chosen.depths[-1] == 0:
        return (*sizes, max(sizes[-1] // 2, 1))
    return tuple(sizes)
