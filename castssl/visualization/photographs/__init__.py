"""Four small free photographs, to try things on; ``SOURCES.md`` beside them says whose they are."""

from __future__ import annotations

from importlib import resources

from PIL import Image

NAMES = ("astronaut", "chelsea", "coffee", "rocket")


def photographs() -> list[tuple[str, Image.Image]]:
    """Name and RGB image of each photograph, sorted by name; the shorter side has 256 pixels."""
    return [(name, _open(name)) for name in NAMES]


def _open(name: str) -> Image.Image:
    with resources.files(__name__).joinpath(f"{name}.jpg").open("rb") as file:
        return Image.open(file).convert("RGB")
