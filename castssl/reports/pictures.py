"""The pictures that a run drew during its training, small enough for a page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from castssl.visualization.page.assemble import base64
from castssl.visualization.page.markup import Html

FOLDER = "pictures"
NAME = re.compile(r"step-(\d{1,12})\.png")
MOST = 8
"""Pictures of a run, evenly spread, the first and the last among them."""
LARGEST = 2400
"""Pixels of the longer side, with which captions are readable."""
QUALITY = 80
"""Of its WebP, half as large as a JPEG."""


def paths(folder: Path) -> list[Path]:
    """At most :data:`MOST` of a run's pictures, by step."""
    found = [
        (int(match[1]), path)
        for path in (folder / FOLDER).glob("step-*.png")
        if (match := NAME.fullmatch(path.name))
    ]
    every = [path for _, path in sorted(found)]
    count = min(len(every), MOST)
    return [every[round(i * (len(every) - 1) / max(1, count - 1))] for i in range(count)]


def show(folder: Path) -> Html:
    """A run's pictures under a slider; nothing if it has none that can be read."""
    images = list(_images(folder))
    if not images:
        return Html("")
    last = len(images) - 1
    slider = (
        f'<input type="range" min="0" max="{last}" step="1" value="{last}" aria-label="moment of training">'
    )
    label = f'<label class="wide">training {slider}</label>'
    row = f'<div class="row"{" hidden" * (not last)}>{label}<output></output></div>'
    return Html(f'<div class="pictures">{row}{"".join(images)}</div>')


def _images(folder: Path) -> Iterator[str]:
    for path in paths(folder):
        try:
            with Image.open(path, formats=["PNG"]) as image:
                picture = image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # A picture that is being written, or damaged.
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        picture.save(data, "webp", quality=QUALITY)
        alt = f"step {int(path.stem.partition('-')[2]):,}"
        size = f'width="{picture.width}" height="{picture.height}"'
        shown = f'<img alt="{alt}" {size} src="data:image/webp;base64,{base64(data.getvalue())}">'
        yield f'<button type="button" title="show in full size">{shown}</button>'
