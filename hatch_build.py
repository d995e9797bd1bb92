"""Put ``plugins/template`` into the wheel, where ``castssl new-plugin`` finds it.

An editable install reads it from the checkout instead, so that there is one copy of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TemplateHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the template's files to a wheel that is no editable one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a wheel is built."""
        template = Path(self.root) / "plugins" / "template"
        if version != "standard":
            return
        for path in template.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = Path("castssl") / "template" / path.relative_to(template)
                build_data["force_include"][str(path)] = target.as_posix()
