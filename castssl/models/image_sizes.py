"""The limit of the image size of encoders that no tensor of a file limits."""

from __future__ import annotations

LARGEST = 2048
"""Pixels of a side, at most: an encoder of timm processes an image of its size when it is built."""


def check_side(name: str, image_size: int) -> None:
    """Refuse an image size that asks for any amount of memory; configs come from strangers, too.

    For encoders that process an image of their size when they are built, before they allocate anything.

    Args:
        name: of the model, for the message.
        image_size: side in pixels.

    Raises:
        ValueError: if it is below 1 or above 2048.
    """
    if not 1 <= image_size <= LARGEST:
        raise ValueError(
            f"{name} is built for images of 1 to {LARGEST} pixels per side, got image_size={image_size}; give"
            " a smaller one, and evaluate larger images by windows"
        )
