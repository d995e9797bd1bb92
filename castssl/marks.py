"""What results are called and how they are shown: shares in percent, and what has a unit as it is."""

from __future__ import annotations

UNITS = ("_levels", "_ms", "_images")
"""Endings of names that tell a unit; any other result is a share, 0 to 1."""


def scale(name: str) -> float:
    """What a result is multiplied by when people read it: 100 for a share, 1 for what has a unit."""
    return 1.0 if name.endswith(UNITS) else 100.0
