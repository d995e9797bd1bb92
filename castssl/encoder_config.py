"""One value describes an encoder: its shape, its pooling, its superpixels, its image size.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from statistics import fmean
from typing import Any, Literal, get_args

from castssl.errors import ConfigError, DataError

Membership = Literal["nearest", "area"]
Padding = Literal["mask", "reference"]
Positions = Literal["sincos", "learned"]
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, of RGB values 0 to 1: views are normalized with them."""
GRAY_MEAN, GRAY_STD = fmean(MEAN), fmean(STD)
"""Their averages, for each channel of views of other than RGB."""
CHANNELS = ("channels", "mean", "std", "superpixel_channels")
"""The fields that describe what the encoder reads."""
BY_HAND = ""
"""The pooling of an encoder that was built from modules, and not by a name: no spec describes it."""


@dataclass(frozen=True)
class EncoderConfig:
    """Everything about an encoder except its weights; weight files hold it as JSON.

    Attributes:
        name: for display; ``KIND:NAME``, such as ``timm:resnet50``, where a plugin of the group
            ``castssl.encoders`` builds the encoder.  The other fields then describe the encoder as far as
            they apply.
        depths: attention blocks of each stage, fine to coarse.
        sizes: token budget of each stage; the first is the number of superpixels at most.
        dim: token width D.
        heads: attention heads.
        stride: pixels of a stem cell's side.
        pooling: spec of a registered pooling, such as ``graph:centroids=random``.
        superpixels: spec of the superpixels that the encoder is trained with.
        image_size: side in pixels that the position table is made for.
        membership: how stem cells belong to superpixels, see :mod:`castssl.tokens.segments`.
        padding: ``"mask"`` or, as in the published models, ``"reference"``.
        positions: ``"sincos"`` (fixed) or ``"learned"``.
        fused: the variant for segmentation, whose stages are fused at the finest tokens.
        dense: fused, with tokens at the resolution of the label map.
        drop_path: stochastic depth of the last block, in training.
        channels: 1 (gray), 3 (RGB) or any other number, see :mod:`castssl.models.channels`.
        mean: of each channel, of values 0 to 1; () is ImageNet's.
        std: the standard deviation, likewise.
        superpixel_channels: the three of other than RGB that superpixels are computed from; () is 0 1 2.
    """

    name: str
    depths: tuple[int, ...] = (3, 3, 3, 2, 0)
    sizes: tuple[int, ...] = (196, 64, 32, 16, 8)
    dim: int = 384
    heads: int = 12
    stride: int = 8
    pooling: str = "graph"
    superpixels: str = "seeds"
    image_size: int = 224
    membership: Membership = "nearest"
    padding: Padding = "mask"
    positions: Positions = "sincos"
    fused: bool = False
    dense: bool = False
    drop_path: float = field(default=0.0, compare=False)
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    superpixel_channels: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """The encoder plugin that builds it; ``"cast"`` where the name has none."""
        kind, colon, _ = self.name.partition(":")
        return kind if colon else "cast"

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, and :meth:`from_dict` reads."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: object) -> EncoderConfig:
        """The config of a file.

        Args:
            values: from JSON; they may come from a stranger.
            source: the file, for messages.

        Raises:
            DataError: if a field is unknown, or has a value of another type.
        """
        if unknown := values.keys() - {field.name for field in fields(cls)}:
            raise DataError(f"the settings in {source} have unknown fields {sorted(unknown)}; update castssl")
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for name, value in settings.items():
            if not _fits(name, value):
                raise DataError(f"the settings in {source} have {name} {str(value)[:40]}; copy it again")
        if "name" not in settings:
            raise DataError(f"the settings in {source} have no name; copy it again")
        return cls(**settings)


_CHOICES = {"membership": Membership, "padding": Padding, "positions": Positions}


def _fits(name: str, value: object) -> bool:
    """True if a value from JSON is one that the field may have."""
    if name in _CHOICES:
        return value in get_args(_CHOICES[name])
    if name in {"depths", "sizes", "superpixel_channels"}:
        return isinstance(value, tuple) and all(type(number) is int and number >= 0 for number in value)
    if name in {"mean", "std"}:
        return isinstance(value, tuple) and all(isinstance(number, int | float) for number in value)
    if name in {"dim", "heads", "stride", "image_size", "channels"}:
        return type(value) is int and value > 0
    if name == "drop_path":
        return isinstance(value, int | float) and 0 <= value < 1
    return isinstance(value, bool if name in {"fused", "dense"} else str)


def imagenet(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation that views of so many channels are normalized with."""
    return (MEAN, STD) if channels == len(MEAN) else ((GRAY_MEAN,) * channels, (GRAY_STD,) * channels)


def plugin_config(name: str, **overrides: Any) -> EncoderConfig:
    """The config of ``KIND:NAME`` before the plugin KIND fills in ``depths``, ``sizes`` and ``dim``.

    Its superpixels, which such an encoder may or may not read, are patches of 16 pixels.

    Raises:
        ConfigError: if there is no such field as one of ``overrides``.
    """
    config = EncoderConfig(name, depths=(), sizes=(), stride=16, superpixels="grid:cell=16")
    return override(config, **overrides)


def override(config: EncoderConfig, **overrides: Any) -> EncoderConfig:
    """The config with other values; None leaves a field as it is.

    ``sizes`` may leave out a last stage without blocks, which gets half of the last size.

    Raises:
        ConfigError: if there is no such field.
    """
    names = [field.name for field in fields(config) if field.name != "name"]
    if unknown := sorted(overrides.keys() - set(names)):
        raise ConfigError(f"{config.name} has no option {', '.join(unknown)}; options: {', '.join(names)}")
    values = {name: value for name, value in overrides.items() if value is not None}
    if "sizes" in values:
        values["sizes"] = complete_sizes(values["sizes"], config.depths)
    return replace(config, **values)


def complete_sizes(sizes: Sequence[int], depths: Sequence[int]) -> tuple[int, ...]:
    """Sizes with one for a last stage without blocks, which exists for the segmentation alone."""
    if depths and len(sizes) == len(depths) - 1 and depths[-1] == 0:
        return (*sizes, max(sizes[-1] // 2, 1))
    return tuple(sizes)
