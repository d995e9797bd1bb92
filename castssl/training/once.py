"""What a run computes once and keeps, such as the metrics of the untrained encoder."""

from __future__ import annotations

import json
from pathlib import Path

ONCE = "once.json"
"""The file in a run's folder that holds it."""


def read_once(path: Path) -> dict[str, dict[str, float]]:
    """The JSON object of objects in a file; what is missing or damaged, as by a power cut, is left out."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    items = content.items() if isinstance(content, dict) else ()
    return {name: values for name, values in items if isinstance(values, dict)}
