"""Encoders by name or config: CAST, the ViT baselines of Table 3a, and those of plugins."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from castssl.encoder_config import BY_HAND, EncoderConfig, override
from castssl.errors import ConfigError
from castssl.models.channels import only_rgb, set_channels
from castssl.models.presets import find_config
from castssl.modes import kept_random_state
from castssl.registry import build

if TYPE_CHECKING:
    from castssl.contracts import Encoder


def create(model: str | EncoderConfig, *, advance: bool = False, **overrides: Any) -> Encoder:
    """Build an encoder; its ``config`` says what it is.

    The weights are a function of torch's global random state (``torch.manual_seed``), which is left as it
    was; two calls in a row therefore give the same weights.

    Args:
        model: a key of :data:`castssl.models.presets.PRESETS`; ``KIND:NAME``, such as ``timm:resnet50``,
            where ``castssl list encoders`` shows the kinds; or a config.
        advance: leave the global random state behind the numbers drawn, as torch's own modules do; for a
            recipe, which draws its heads after the encoder from the same stream.
        overrides: fields of :class:`castssl.EncoderConfig` in place of the model's own, such as
            ``sizes=(196, 128, 64, 32)``, ``image_size=512``, ``pooling="graph:centroids=random"``,
            ``drop_path=0.1``; None leaves a field as it is.  Of timm's ViTs ``sizes`` are their number of
            patches, once for each stage, such as ``(196,) * 4``.

    Raises:
        ConfigError: if the name or a field is unknown, or the sizes do not fit the depths.
        UnknownPlugin: if no installed plugin builds encoders of this kind.
    """
    config = override(find_config(model) if isinstance(model, str) else model, **overrides)
    with nullcontext() if advance else kept_random_state():
        if config.kind == "cast":
            return _cast(config)
        built = build("encoders", config.kind, only_rgb(config))
    if (config.mean or config.std) and not built.takes_constants:
        raise ConfigError(
            f"{config.name} reads RGB that is normalized by ImageNet's constants: --mean and --std are for"
            " castssl's own models and timm's; leave them out"
        )
    return built


def _cast(config: EncoderConfig) -> Encoder:
    from castssl.models.cast import CAST
    from castssl.models.dense import DenseCAST
    from castssl.models.fuse import FusedCAST

    if config.pooling == BY_HAND:
        raise ConfigError(f"a {config.name} was built from modules, which its config does not describe")
    model = DenseCAST if config.dense else FusedCAST if config.fused else CAST
    names = ("dim", "heads", "image_size", "stride", "membership", "padding", "positions", "drop_path")
    options: dict[str, Any] = {name: getattr(config, name) for name in names}
    try:
        built = model(
            config.depths, config.sizes, lambda dim: build("pooling", config.pooling, dim), **options
        )
    except ValueError as error:
        raise ConfigError(f"{error}; got {config}") from error
    set_channels(built.stem, config)
    built.config = config
    return built
