"""A picture of nearest neighbors: a row for each query, a block of images for each model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from castssl.labels import LabelTree
from castssl.visualization.draw import (
    CAPTION,
    GAP,
    INK,
    PAPER,
    ImageLike,
    captioned,
    draw_image,
    font,
    sheet,
    truncate,
)

SAME, RELATED, OTHER, NEUTRAL = (40, 140, 70), (235, 170, 20), (200, 50, 40), (200, 200, 204)
"""Frames of neighbors of the query's finest class, of its coarsest alone, of neither, and without labels."""
FRAME = 5
LEGEND = "frames: green, the query's class; yellow, its coarsest class alone; red, another"


def draw_neighbors(
    image_of: Callable[[int], ImageLike],
    queries: Sequence[int],
    models: Mapping[str, Tensor],
    labels: Tensor,
    tree: LabelTree,
    *,
    panel: int = 112,
) -> Image.Image:
    """The queries and their neighbors, framed by whether the classes agree.

    Args:
        image_of: the image of a position.
        queries: positions.
        models: by the model's name, int64 (queries, k), positions of the neighbors.
        labels: int64 (n, L), label paths by position; L may be 0.
        tree: the names of the classes.
        panel: side of an image in pixels.
    """

    def framed(position: int, color: tuple[int, int, int]) -> Image.Image:
        inner = draw_image(image_of(position), panel - 2 * FRAME)
        return ImageOps.expand(inner, FRAME, color)

    def caption(position: int) -> str:
        named = bool(tree.names) and int(labels[position, -1]) >= 0
        return truncate(tree.names[-1][int(labels[position, -1])] if named else "", panel, CAPTION)

    rows = []
    for row, query in enumerate(queries):
        blocks = [captioned([framed(query, NEUTRAL)], [caption(query)])]
        for nearest in models.values():
            others = nearest[row].tolist()
            panels = [framed(other, _color(labels[query], labels[other])) for other in others]
            blocks.append(captioned(panels, [caption(other) for other in others]))
        rows.append(_beside(blocks))
        widths = [block.width for block in blocks]
    legend = [_heading([sum(widths)], [LEGEND])] * bool(labels.shape[1])
    return sheet([_heading(widths, ["query", *models]), *rows, *legend])


def _color(query: Tensor, other: Tensor) -> tuple[int, int, int]:
    """The frame of a neighbor, by the label paths (L,) of query and neighbor."""
    if not len(query) or min(int(query[-1]), int(other[-1])) < 0:
        return NEUTRAL
    if query[-1] == other[-1]:
        return SAME
    return RELATED if len(query) > 1 and query[0] == other[0] else OTHER


def _beside(blocks: Sequence[Image.Image]) -> Image.Image:
    """Blocks from left to right with two gaps between."""
    width = sum(block.width + 2 * GAP for block in blocks)
    row = Image.new("RGB", (width, max(block.height for block in blocks)), PAPER)
    left = 0
    for block in blocks:
        row.paste(block, (left, 0))
        left += block.width + 2 * GAP
    return row


def _heading(widths: Sequence[int], names: Sequence[str]) -> Image.Image:
    """A name above each block."""
    cells = [Image.new("RGB", (width, CAPTION + GAP), PAPER) for width in widths]
    for cell, name in zip(cells, names, strict=True):
        text = truncate(name, cell.width - 2 * GAP, CAPTION)
        ImageDraw.Draw(cell).text((GAP, 0), text, fill=INK, font=font(CAPTION))
    return _beside(cells)
