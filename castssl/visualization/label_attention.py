"""Heat maps of what labels attend to: a row for each label, a panel for each stage."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from castssl.metrics.figure_ground import MASS
from castssl.types import LabelAttention
from castssl.visualization.attention import heat
from castssl.visualization.draw import CAPTION, ImageLike, captioned, draw_image, sheet, to_pil, truncate


def draw_label_attention(
    image: ImageLike,
    attention: LabelAttention,
    titles: Mapping[int, str],
    index: int = 0,
    *,
    mass: float = MASS,
    panel: int = 144,
) -> Image.Image:
    """The image and each stage's attention, for each of some labels; a white line is around the figure.

    A token is the brighter the more attention it has; each panel has a scale of its own.  The figure is the
    smallest set of tokens that holds a share of the attention
    (:func:`castssl.metrics.figure_ground.figure`).

    Args:
        image: uint8 (3, H, W) or PIL, as the encoder saw it: H x W is the segments' size.
        attention: of a batch, from ``objective.label_attention(view)``, on any device.
        titles: what the labels that are drawn are called, by their column; a row each, in this order.
        index: which image of the batch.
        mass: the share of the figure.
        panel: height of a panel in pixels.

    Raises:
        ValueError: if there is no title, a column is no label, or the image's size is not that of the
            segments.
    """
    shown, segments = to_pil(image), attention.hierarchy.segments[index]
    if (shown.height, shown.width) != tuple(segments.shape):
        raise ValueError(
            f"draw_label_attention: the image is {shown.height} x {shown.width}, but the segments are"
            f" {tuple(segments.shape)} (height, width); give the cropped image that the encoder saw"
        )
    count = attention.weights[0].shape[1]
    if not titles or not all(0 <= column < count for column in titles):
        raise ValueError(
            f"draw_label_attention: got titles of the columns {list(titles)}, expected some of 0 to"
            f" {count - 1}"
        )
    photo = draw_image(shown, panel)
    labels = [attention.hierarchy.labels(stage)[index] for stage in range(len(attention.weights))]
    names = [f"stage {stage}, {int(labels[stage].max()) + 1} tokens" for stage in range(len(labels))]
    rows = []
    for column, title in titles.items():
        maps = [
            heat(shown, tokens, weights[index, column], mass=mass, panel=panel)
            for tokens, weights in zip(labels, attention.weights, strict=True)
        ]
        captions = [truncate(text, photo.width, CAPTION) for text in (title, *names)]
        rows.append(captioned([photo, *maps], captions))
    return sheet(rows)
