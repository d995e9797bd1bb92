"""A page to look at: images under segments that merge one by one, in one HTML file that needs no network.

``look.html``, ``look.css`` and the viewer's files beside this module are put together when a page is written.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from castssl.errors import DataError, printable
from castssl.files import atomic_write
from castssl.superpixels.merge import Merges, cut
from castssl.visualization.colors import paint
from castssl.visualization.page.assemble import DATA, assemble, base64, stored

LARGEST = 1024
"""Pixels of the longer side of an image in a page, at most."""
MOST_SEGMENTS = 2**16 - 1
"""Of an image and a model; a page has 16 bits for a segment, and one value for none."""
QUALITY = 88
"""Of its JPEG."""
SHADED = (256, 64, 32, 16, 8)
"""Numbers of segments that get hues and shades where a hierarchy does not end at fewer."""


class Level(NamedTuple):
    """One level of a hierarchy."""

    size: int
    """How many segments it has, also those without pixels."""
    ids: NDArray[np.int64]
    """(n,), the segment that each of the finest segments is in, by the numbers of the model."""


class Class(NamedTuple):
    """The likeliest class of one label level."""

    name: str
    probability: float
    moved: NDArray[np.float64]
    """(n,), how much each of the finest segments supports it, in units of the logit; sums are of segments."""


class Parts(NamedTuple):
    """The segments that one model finds in an image, from n finest to 1."""

    finest: NDArray[np.int64]
    """(h, w), the finest segment of each pixel, 0 to n - 1, at any size; -1 where it has none."""
    merges: Merges
    """n - 1 of them; number i joins two segments to one that is called n + i."""
    levels: tuple[Level, ...]
    """Fine to coarse; the first holds the finest segments.  Each is a cut of the merges."""
    classes: tuple[Class, ...] = ()
    """Coarse to fine; empty without a classifier."""


class Shown(NamedTuple):
    """One image of a page."""

    name: str
    picture: Image.Image
    parts: Sequence[Parts]
    """Of each model."""


def write_page(path: Path, models: Sequence[str], images: Iterable[Shown]) -> int:
    """Write a page by :func:`castssl.files.atomic_write`, one image after the other.

    Names are shown as text, whatever they hold.  Of an image only the pixels get into the page.

    Args:
        path: an HTML file.
        models: a title for each model.
        images: in the order of the page; an iterator holds one in memory at a time.

    Returns:
        How many images there are.

    Raises:
        DataError: if there are none; then no file is written.
        CastError: if the system refuses to write it.
    """
    head, tail = assemble("look.html", ["viewer.css", "look.css"], ["viewer.js"]).split(DATA)
    names = []
    with atomic_write(path, "page") as aside, aside.open("w", encoding="utf-8", newline="") as file:
        file.write(head)
        for image in images:
            names.append(printable(image.name))
            file.write(stored(encode(image), 'class="image"'))
        if not names:
            raise DataError(f"no image for {path} could be read; the page is not written")
        about = {"models": [printable(model) for model in models], "images": names}
        file.write(stored(about, 'id="about"') + tail)
    return len(names)


def shrink(picture: Image.Image) -> Image.Image:
    """An image as a page holds it: RGB, at most :data:`LARGEST` pixels wide and high."""
    scale = min(1.0, LARGEST / max(picture.size))
    width, height = (max(1, round(scale * side)) for side in picture.size)
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def encode(image: Shown) -> dict[str, Any]:
    """What a page holds of an image: its pixels alone, and the segments of each model."""
    shown = shrink(image.picture)
    # Pillow writes the comment and the color profile of the file that an image comes from; an array has none.
    plain, jpeg = Image.fromarray(np.asarray(shown)), io.BytesIO()
    plain.save(jpeg, "jpeg", quality=QUALITY)
    models = [_model(parts) for parts in image.parts]
    return {
        "width": shown.width,
        "height": shown.height,
        "jpeg": base64(jpeg.getvalue()),
        "models": models,
    }


def _model(parts: Parts) -> dict[str, Any]:
    height, width = parts.finest.shape
    return {
        "width": width,
        "height": height,
        "finest": base64(zlib.compress(_code(parts.finest), 9)),
        "merges": [segment for pair in parts.merges for segment in pair],
        "levels": [{"size": level.size, "ids": level.ids.tolist()} for level in parts.levels],
        "shades": _shades(parts),
        "classes": [
            {
                "name": printable(one.name),
                "probability": round(one.probability, 4),
                "moved": [float(f"{value:.4g}") for value in one.moved.tolist()],
            }
            for one in parts.classes
        ],
    }


def _code(finest: NDArray[np.int64]) -> bytes:
    """Each pixel's segment plus 1, less that of the pixel above, modulo 2**16: low bytes, then high bytes."""
    if finest.size and finest.max() >= MOST_SEGMENTS:
        raise DataError(f"a page holds at most {MOST_SEGMENTS} segments per image, got {finest.max() + 1}")
    values = (finest + 1).astype(np.uint16)
    values[1:] -= values[:-1].copy()
    return (values & 255).astype(np.uint8).tobytes() + (values >> 8).astype(np.uint8).tobytes()


def _shades(parts: Parts) -> list[dict[str, Any]]:
    """The color of each finest segment from so many segments on, as 6 hexadecimal digits each."""
    count = len(parts.levels[0].ids)
    groups = {len(np.unique(level.ids)): level.ids for level in reversed(parts.levels)}
    groups |= {size: cut(parts.merges, count, size) for size in SHADED if size < min(groups, default=0)}
    if not count:
        return []
    sizes = sorted(groups, reverse=True)
    first = np.unique(parts.finest[parts.finest >= 0], return_index=True)[1]
    maps = [torch.from_numpy(np.append(groups[size], -1)[parts.finest]) for size in sizes]
    colors = [painted[parts.finest >= 0][first] for painted in paint(maps)]
    return [
        {"segments": size, "colors": table.tobytes().hex()} for size, table in zip(sizes, colors, strict=True)
    ]
