"""PIL's warnings about odd tags of images."""

from __future__ import annotations

import warnings


def silence_pil() -> None:
    """Suppress PIL's warnings about odd tags.

    A context around each image would make Python forget which other warnings it has shown already, and a
    filter set once might be gone: ``pytest`` and ``warnings.catch_warnings`` restore the old ones.
    """
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _QUIET = warnings.filters[0]
