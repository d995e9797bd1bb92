"""An image of a label path: the photograph, and for each level the segments that spoke for its class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from castssl.visualization.colors import NOTHING, Bytes
from castssl.visualization.draw import (
    CAPTION,
    GAP,
    TITLE,
    ImageLike,
    captioned,
    draw_image,
    overlay,
    sheet,
    to_pil,
    truncate,
)

FOR, AGAINST, NEITHER = (235, 106, 10), (28, 92, 214), (246, 246, 244)
"""The colors of what spoke for a class, against it, and not at all."""
LEGEND = "orange: for, blue: against"


class Panel(NamedTuple):
    """One label level."""

    labels: Tensor
    """Integer (H, W), the segments that it reads; -1 for none."""
    moved: Tensor
    """float (K,), how much each spoke for the class."""
    caption: str


def draw_path(
    image: ImageLike, panels: Sequence[Panel], title: str, *, panel: int = 224, strength: float = 0.72
) -> Image.Image:
    """The image, then each level's segments, shaded by how much they moved its logit, under a title.

    The segment that moved a level's logit most has the full color; levels are not comparable.

    Args:
        image: what the encoder saw, before normalization: uint8 (3, H, W) or PIL.
        panels: coarse to fine.
        title: a line; cut at the image's width.
        panel: height of a panel in pixels.
        strength: how much color hides the image, 0 to 1.
    """
    shown = to_pil(image)
    photo = draw_image(shown, panel)
    levels = [overlay(shown, p.labels, shade(p), panel=panel, strength=strength) for p in panels]
    drawn = [photo, *levels]
    width = min(part.width for part in drawn)
    row = captioned(
        drawn, [truncate(text, width, CAPTION) for text in [LEGEND, *(p.caption for p in panels)]]
    )
    return sheet([row], truncate(title, row.width - 2 * GAP, TITLE))


def shade(panel: Panel) -> Bytes:
    """Each pixel's color, from how much its segment spoke for the class: uint8 (H, W, 3)."""
    moved = panel.moved.detach().cpu().double().numpy()
    share = moved / max(float(np.abs(moved).max(initial=0)), 1e-12)
    ends = np.where(share[:, None] > 0, FOR, AGAINST)
    colors = np.rint(NEITHER + np.abs(share)[:, None] * (ends - np.asarray(NEITHER)))
    table = np.vstack([colors, NOTHING]).astype(np.uint8)
    painted: Bytes = table[panel.labels.cpu().numpy()]  # -1 finds the last row
    return painted
