"""Encoders by name or config: CAST, the ViT baselines of Table 3a, any timm model, CLIP."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from castssl.encoder_config import BY_HAND, EncoderConfig, override
from castssl.errors import ConfigError
from castssl.models.presets import find_config
from castssl.modes import kept_random_state
from castssl.registry import build

if TYPE_CHECKING:
    from castssl.contracts import Encoder, Pooling


def create(model: str | EncoderConfig, *, advance: bool = False, **overrides: Any) -> Encoder:
    """Build an encoder; its ``config`` says what it is.

    The weights are a function of torch's global random state (``torch.manual_seed``), which is left as it
    was; two calls in a row therefore give the same weights.

    Args:
        model: a key of :data:`castssl.models.presets.PRESETS`; ``timm:NAME``; ``clip:ARCHITECTURE/WEIGHTS``
            (see :func:`castssl.models.clip_encoder.load_clip`); or a config.
        advance: leave the global random state behind the numbers drawn, as torch's own modules do; for a
            recipe, which draws its heads after the encoder from the same stream.
        overrides: fields of :class:`castssl.EncoderConfig` in place of the model's own, such as
            ``sizes=(196, 128, 64, 32)``, ``image_size=512``, ``pooling="graph:centroids=random"``,
            ``drop_path=0.1``; None leaves a field as it is.  Of timm's ViTs ``sizes`` are their number of
            patches, once for each stage, such as ``(196,) * 4``.

    Raises:
        ConfigError: if the name or a field is unknown, or the sizes do not fit the depths.
    """
    config = override(find_config(model) if isinstance(model, str) else model, **overrides)
    with nullcontext() if advance else kept_random_state():
        if config.kind == "timm":
            return _timm(config)
        if config.kind == "clip":
            return _clip(config)
        return _cast(config)


def _cast(config: EncoderConfig) -> Encoder:
    from castssl.models.cast import CAST
    from castssl.models.dense import DenseCAST
    from castssl.models.fuse import FusedCAST

    if config.kind != "cast":
        raise ConfigError(f"no encoders of the kind {config.kind!r}, got {config.name}; kinds: timm, clip")
    if config.pooling == BY_HAND:
        raise ConfigError(f"a {config.name} was built from modules, which its config does not describe")

    def make_pooling(dim: int) -> Pooling:
        built: Pooling = build("pooling", config.pooling, dim)
        return built

    model = DenseCAST if config.dense else FusedCAST if config.fused else CAST
    try:
        built = model(
            config.depths,
            config.sizes,
            make_pooling,
            dim=config.dim,
            heads=config.heads,
            image_size=config.image_size,
            stride=config.stride,
            membership=config.membership,
            padding=config.padding,
            positions=config.positions,
            drop_path=config.drop_path,
        )
    except ValueError as error:
        raise ConfigError(f"{error}; got {config}") from error
    built.config = config
    return cast("Encoder", built)


def _timm(config: EncoderConfig) -> Encoder:
    from castssl.models.timm_encoder import TimmEncoder

    try:
        encoder = TimmEncoder(
            config.name.removeprefix("timm:"),
            image_size=config.image_size,
            drop_path=config.drop_path,
            stages=len(config.sizes or (0,)),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.sizes and config.sizes != encoder.sizes:
        raise ConfigError(
            f"{config.name} has {encoder.sizes[0]} tokens at {config.image_size} pixels in every stage, got"
            f" sizes {config.sizes}: give {encoder.sizes[0]} once for each stage, or leave them out"
        )
    own: dict[str, Any] = {"sizes": encoder.sizes, "dim": encoder.dim, "pooling": BY_HAND}
    encoder.config = replace(config, **own)
    return cast("Encoder", encoder)


def _clip(config: EncoderConfig) -> Encoder:
    from castssl.models.clip_encoder import load_clip, named

    name = config.name.removeprefix("clip:")
    encoder = load_clip(name, image_size=config.image_size)
    # Without the weights' name: a file of this encoder has its own, and nothing is downloaded to read it.
    architecture = f"clip:{named(name).architecture}"
    own: dict[str, Any] = {"sizes": encoder.sizes, "dim": encoder.dim, "pooling": BY_HAND}
    encoder.config = replace(config, name=architecture, **own)
    return cast("Encoder", encoder)
