"""Put ``recipes`` and ``plugins/template`` into the wheel, where :mod:`castssl.shipped` finds them.

An editable install reads them from the checkout instead, so that there is one copy of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = {"recipes": "castssl/recipes", "plugins/template": "castssl/template"}
"""Folders of the checkout, and their places in the wheel."""


class ShippedFilesHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the files of both folders to a wheel that is no editable one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a wheel is built."""
        if version != "standard":
            return
        for source, target in FOLDERS.items():
            folder = Path(self.root) / source
            for path in folder.rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    inside = Path(target) / path.relative_to(folder)
                    build_data["force_include"][str(path)] = inside.as_posix()
