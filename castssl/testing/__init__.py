"""The contract checks of the six doors, for castssl's own plugins and for yours.

``from castssl.testing import pooling, parametrize``; each room's module holds ``checks``, a list of functions
``check_xxx(subject)``, and :func:`parametrize` turns them into pytest cases.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from castssl.testing import datasets as datasets
    from castssl.testing import encoders as encoders
    from castssl.testing import objectives as objectives
    from castssl.testing import pooling as pooling
    from castssl.testing import segmenters as segmenters
    from castssl.testing import superpixels as superpixels
    from castssl.testing.claims import Check, Subject, parametrize

__all__ = [
    "Check",
    "Subject",
    "datasets",
    "encoders",
    "objectives",
    "parametrize",
    "pooling",
    "segmenters",
    "superpixels",
]
_HOMES = {"Check": "claims", "Subject": "claims", "parametrize": "claims"}


def __getattr__(name: str) -> object:
    """A room's checks; ``parametrize`` alone needs pytest, which ``castssl check`` does without."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
