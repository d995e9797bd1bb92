"""Encoded pictures become RGB: whatever PIL can read, without silent damage."""

from __future__ import annotations

from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def decode(file: IO[bytes], draft: int | None = None) -> Image.Image:
    """The picture in ``file`` as RGB; EXIF orientation is left alone, as in timm and torchvision."""
    image = Image.open(file)
    if draft is not None:
        image.draft(None, (draft, draft))
    image.load()
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """As RGB: 16 bits scaled instead of clipped, transparency laid on white instead of dropped."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.asarray(image).astype(np.float64)
    top = pixels.max(initial=0)
    if image.mode == "F":
        pixels = pixels * 255 if top <= 1 else pixels
    elif image.mode != "I" or top > 255:
        pixels = pixels // 256
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)
