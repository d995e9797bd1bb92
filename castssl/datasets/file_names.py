"""Names of files and folders: which count as images, and which belong to a system or program."""

from __future__ import annotations

import os

from castssl.datasets.decode import EXTENSIONS

_SYSTEM = {
    *("@eadir", "#recycle", "#snapshot", "lost+found", "$recycle.bin", "system volume information"),
    *("@recycle", "@recently-snapshot", "@__thumb", "@tmp", "__macosx", "__pycache__"),
}
"""Folders that systems and programs create, in lower case."""


def ignored(name: str) -> bool:
    """True for the name of a hidden folder, or of one of a system or program: no class, no split."""
    return name.startswith(".") or name.lower() in _SYSTEM


def is_image(name: str) -> bool:
    """True if a file of this name counts as an image."""
    return name.lower().endswith(EXTENSIONS) and not os.path.basename(name).startswith(".")


def is_array(name: str) -> bool:
    """True if a file of this name counts as an array, which is an image where a folder holds no others."""
    return name.lower().endswith(".npy") and not os.path.basename(name).startswith(".")
