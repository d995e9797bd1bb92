"""Heat maps of the class token's attention: a row for each stage, a panel for each head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from castssl.metrics.figure_ground import MASS, figure
from castssl.visualization.colors import NOTHING, Bytes
from castssl.visualization.draw import ImageLike, captioned, draw_image, overlay, sheet

HEAT = ((20, 12, 60), (98, 22, 122), (186, 54, 96), (232, 112, 44), (250, 196, 40))
"""The colors of no attention, and of a quarter, half, three quarters and all of a panel's largest."""


class StageAttention(NamedTuple):
    """The class token's attention in one stage and one image."""

    stage: int
    labels: Tensor
    """Integer (H, W), the token of each pixel; -1 for none."""
    weights: Tensor
    """float (heads, K), the attention to each token."""
    title: str = ""
    """What reads this class token, such as a label level."""


def draw_attention(
    image: ImageLike, stages: Sequence[StageAttention], *, mass: float = MASS, panel: int = 144
) -> Image.Image:
    """The image, the mean of the heads, and each head, for each stage; a white line is around the figure.

    A token is the brighter the more attention it has; each panel has a scale of its own.  The figure is the
    smallest set of tokens that holds a share of the attention
    (:func:`castssl.metrics.figure_ground.figure`).

    Args:
        image: uint8 (3, H, W) or PIL.
        stages: fine to coarse.
        mass: the share of the figure.
        panel: height of a panel in pixels.

    Raises:
        ValueError: if there is no stage.
    """
    rows = []
    for stage in stages:
        heads = [stage.weights.mean(0), *stage.weights]
        names = [f"stage {stage.stage}, mean", *(f"head {number}" for number in range(len(stage.weights)))]
        panels = [heat(image, stage.labels, weights, mass=mass, panel=panel) for weights in heads]
        first = stage.title or f"{stage.weights.shape[1]} tokens"
        rows.append(captioned([draw_image(image, panel), *panels], [first, *names]))
    return sheet(rows)


def heat(
    image: ImageLike, labels: Tensor, weights: Tensor, *, mass: float = MASS, panel: int = 144
) -> Image.Image:
    """One panel: labels (H, W), the attention (K,) to each token."""
    values = weights.detach().cpu().double()
    chosen = figure(values, mass)[labels.cpu().clamp(min=0)] & (labels.cpu() >= 0)
    return overlay(image, chosen.long(), colors(labels, values), panel=panel, strength=0.75)


def colors(labels: Tensor, weights: Tensor) -> Bytes:
    """The color of each pixel, uint8 (H, W, 3), by the share of its token's attention (K,) in the largest."""
    share = (weights / weights.max().clamp(min=1e-12)).cpu().numpy()
    stops = np.linspace(0, 1, len(HEAT))
    table = np.stack([np.interp(share, stops, channel) for channel in zip(*HEAT, strict=True)], 1)
    filled = np.vstack([np.rint(table), NOTHING]).astype(np.uint8)
    painted: Bytes = filled[labels.cpu().numpy()]  # -1 finds the last row
    return painted
