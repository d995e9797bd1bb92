"""castssl: vision transformers whose tokens are superpixels.

The public names are imported when they are first used, so that ``import castssl`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from castssl.checkpoints.load import load_encoder, load_official
    from castssl.contracts import Encoder, Objective, Pooling, Superpixels
    from castssl.encoder_config import EncoderConfig
    from castssl.errors import CastError, ConfigError, DataError, Diverged, PluginError
    from castssl.inference.classes import segment_classes
    from castssl.inference.load import load
    from castssl.inference.segment import segment
    from castssl.labels import LabelTree
    from castssl.models.create import create
    from castssl.registry import build
    from castssl.types import Batch, Hierarchy, Outcome, Pooled, Tokens, View

    __version__: str

__all__ = [
    "Batch",
    "CastError",
    "ConfigError",
    "DataError",
    "Diverged",
    "Encoder",
    "EncoderConfig",
    "Hierarchy",
    "LabelTree",
    "Objective",
    "Outcome",
    "PluginError",
    "Pooled",
    "Pooling",
    "Superpixels",
    "Tokens",
    "View",
    "build",
    "create",
    "load",
    "load_encoder",
    "load_official",
    "segment",
    "segment_classes",
]

_HOMES = {
    "castssl.contracts": ("Encoder", "Objective", "Pooling", "Superpixels"),
    "castssl.errors": ("CastError", "ConfigError", "DataError", "Diverged", "PluginError"),
    "castssl.checkpoints.load": ("load_encoder", "load_official"),
    "castssl.inference.load": ("load",),
    "castssl.inference.segment": ("segment",),
    "castssl.inference.classes": ("segment_classes",),
    "castssl.encoder_config": ("EncoderConfig",),
    "castssl.models.create": ("create",),
    "castssl.registry": ("build",),
    "castssl.labels": ("LabelTree",),
    "castssl.types": ("Batch", "Hierarchy", "Outcome", "Pooled", "Tokens", "View"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name from its home module, or the installed version."""
    if name == "__version__":
        from importlib.metadata import version

        return version("castssl")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
