"""Images of a hierarchy: one row for each image, from the photograph over its superpixels to the wholes.

The panels are those of CAST's figure 5, https://arxiv.org/abs/2210.00314.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from castssl.types import Hierarchy
from castssl.visualization.colors import NOTHING, Bytes, Ints, numbered, paint

ImageLike = Image.Image | Tensor
"""A PIL image, or a uint8 (3, H, W) RGB tensor."""

GAP = 8
WIDEST = 8
CAPTION = 13
TITLE = 20
INK, FAINT, PAPER, BORDER = (32, 32, 36), (90, 90, 98), (255, 255, 255), (255, 255, 255)


def draw_hierarchy(
    image: ImageLike, hierarchy: Hierarchy, index: int = 0, *, panel: int = 224, strength: float = 0.85
) -> Image.Image:
    """A row: the image, its superpixels in their mean colors, then each stage, fine to coarse, captioned.

    Stages of as many tokens as the one before (no pooling between them) are left out.  Colors agree
    between stages: parts are shades of their whole (:func:`castssl.visualization.colors.paint`).

    Args:
        image: what the encoder saw, before normalization: uint8 (3, H, W) or PIL, H x W the segments' size.
        hierarchy: of a batch, from ``encoder(view)`` or ``encoder.segment(view)``, on any device.
        index: which image of the batch.
        panel: height of a panel in pixels.
        strength: how much color hides the image, 0 to 1.

    Returns:
        An RGB image.

    Raises:
        ValueError: if the image's size is not that of the segments.
    """
    shown = to_pil(image)
    segments = hierarchy.segments[index]
    if (shown.height, shown.width) != tuple(segments.shape):
        raise ValueError(
            f"draw_hierarchy: the image is {shown.height} x {shown.width} but the segments are"
            f" {tuple(segments.shape)} (height, width); give the cropped image that the encoder saw"
        )
    sizes = [tokens.x.shape[1] for tokens in hierarchy.stages]
    stages = [i for i in range(1, len(sizes)) if sizes[i] != sizes[i - 1]]
    labels = [hierarchy.labels(i)[index] for i in stages]
    panels = [draw_image(shown, panel), partition(shown, segments, panel=panel)]
    captions = ["image", f"{_seen(segments)} superpixels"]
    for stage, label, colors in zip(stages, labels, paint(labels) if labels else [], strict=True):
        panels.append(overlay(shown, label, colors, panel=panel, strength=strength))
        captions.append(_caption(sizes[stage], _seen(label)))
    return captioned(panels, captions)


def draw_image(image: ImageLike, panel: int = 224) -> Image.Image:
    """The image as a panel of this height."""
    shown = to_pil(image)
    return shown.resize((panel_width(shown.size, panel), panel), Image.Resampling.LANCZOS)


def panel_width(size: tuple[int, int], panel: int) -> int:
    """The width of a panel of this height that shows an image of ``size``, width and height; at least 1.

    An image that is wider than :data:`WIDEST` times its height is not enlarged beyond its own width, because
    20,000 x 1 pixels would become gigabytes.
    """
    return max(1, min(round(panel * size[0] / size[1]), max(WIDEST * panel, size[0])))


def partition(image: ImageLike, labels: Tensor, *, panel: int = 224) -> Image.Image:
    """Each region in its mean color, with white borders: integer (H, W) labels -> RGB, ``panel`` high."""
    shown = to_pil(image)
    regions = numbered(labels)
    return overlay(shown, labels, _means(np.asarray(shown), regions), panel=panel, strength=1.0)


def overlay(
    image: ImageLike, labels: Tensor, colors: Bytes, *, panel: int = 224, strength: float = 0.85
) -> Image.Image:
    """The image under colors, with thin white borders between regions.

    Args:
        image: of size H x W.
        labels: integer (H, W), whose borders are drawn.
        colors: uint8 (H, W, 3), laid over the image.
        panel: height of the result in pixels.
        strength: how much color hides the image, 0 to 1.
    """
    regions = numbered(labels)
    # Drawn at twice the size and shrunk, borders come out thin and smooth.
    width, height = 2 * panel_width((regions.shape[1], regions.shape[0]), panel), 2 * panel
    gray = to_pil(image).convert("L").convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    flat = Image.fromarray(colors).resize((width, height), Image.Resampling.NEAREST)
    blend = Image.blend(gray, flat, strength)
    rows = (np.arange(height) * 2 + 1) * regions.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * regions.shape[1] // (2 * width)
    blend.paste(BORDER, mask=_borders(regions[rows][:, columns]))
    return blend.resize((width // 2, panel), Image.Resampling.BOX)


def sheet(rows: Sequence[Image.Image], title: str = "") -> Image.Image:
    """Rows below each other on white, under a title.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("sheet: expected at least one row, got none")
    head = 2 * GAP + 2 * TITLE if title else GAP
    width = max(row.width for row in rows) + 2 * GAP
    page = Image.new("RGB", (width, head + sum(row.height + GAP for row in rows)), PAPER)
    ImageDraw.Draw(page).text((2 * GAP, 2 * GAP), title, fill=INK, font=font(TITLE))
    top = head
    for row in rows:
        page.paste(row, (GAP, top))
        top += row.height + GAP
    return page


def to_pil(image: ImageLike) -> Image.Image:
    """The image as a PIL RGB image.

    Raises:
        ValueError: if it is a tensor but not uint8 (3, H, W); normalized images are refused.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(
            f"expected a uint8 RGB image (3, H, W), got {image.dtype} {tuple(image.shape)}; give the raw"
            f" view, from before finish"
        )
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def captioned(panels: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Panels beside each other on white, each above its caption.

    Raises:
        ValueError: if there are not as many captions as panels, or none.
    """
    width = sum(panel.width + GAP for panel in panels) + GAP
    height = max(panel.height for panel in panels)
    row = Image.new("RGB", (width, height + CAPTION + 3 * GAP), PAPER)
    pen = ImageDraw.Draw(row)
    left = GAP
    for panel, caption in zip(panels, captions, strict=True):
        row.paste(panel, (left, GAP))
        middle = left + panel.width // 2
        pen.text((middle, height + GAP + GAP // 2), caption, fill=FAINT, font=font(CAPTION), anchor="ma")
        left += panel.width + GAP
    return row


def draw_levels(
    image: ImageLike,
    methods: Mapping[str, Sequence[Tensor]],
    *,
    panel: int | None = None,
    strength: float = 0.85,
) -> Image.Image:
    """A row: the image, then the label maps of each method, fine to coarse, captioned.

    Colors agree between the levels of a method, see :func:`castssl.visualization.colors.paint`.

    Args:
        image: uint8 (3, H, W) or PIL.
        methods: by the method's name, integer (H, W) label maps, fine to coarse.
        panel: height of a panel in pixels; None: the image's own.
        strength: how much color hides the image, 0 to 1.
    """
    height = panel or to_pil(image).height
    panels, captions = [draw_image(image, height)], ["image"]
    for name, levels in methods.items():
        for labels, colors in zip(levels, paint(levels), strict=True):
            panels.append(overlay(image, labels, colors, panel=height, strength=strength))
            long = f"{name}, {_seen(labels)} segments"
            fits = font(CAPTION).getlength(long) <= panels[0].width
            captions.append(long if fits else f"{name}, {_seen(labels)}")
    return captioned(panels, [truncate(text, panels[0].width, CAPTION) for text in captions])


def truncate(text: str, width: int, size: int) -> str:
    """As much of a line in a font of this size as fits into a width in pixels."""
    # A glyph takes a pixel or more; to measure a text of thousands of characters takes seconds.
    start, letters = text[: max(0, width) + 1], font(size)
    if start == text and letters.getlength(text) <= width:
        return text
    ends = range(len(start) + 1)
    fitting = bisect_right(ends, float(width), key=lambda end: letters.getlength(f"{start[:end]}..."))
    return f"{start[: max(0, fitting - 1)]}..."


def _means(pixels: Bytes, regions: Ints) -> Bytes:
    """Each pixel's region's mean color: uint8 (H, W, 3)."""
    slots = regions.ravel() + 1
    mass = np.bincount(slots, minlength=1)
    sums = [np.bincount(slots, weights=channel) for channel in pixels.reshape(-1, 3).T]
    means = np.rint(np.stack(sums, 1) / np.maximum(mass, 1)[:, None]).astype(np.uint8)
    means[0] = NOTHING
    filled: Bytes = means[regions + 1]
    return filled


def _borders(regions: Ints) -> Image.Image:
    """A mask, two pixels wide, of the borders between regions."""
    edge = np.zeros(regions.shape, dtype=np.uint8)
    across, down = regions[:, 1:] != regions[:, :-1], regions[1:] != regions[:-1]
    for part, change in (
        (edge[:, 1:], across),
        (edge[:, :-1], across),
        (edge[1:], down),
        (edge[:-1], down),
    ):
        part[change] = 255
    return Image.fromarray(edge)


def _seen(labels: Tensor) -> int:
    return int(numbered(labels).max(initial=-1)) + 1


def _caption(size: int, seen: int) -> str:
    return f"{size} segments" if seen == size else f"{seen} of {size} segments"


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow brings along, so that drawings look alike everywhere."""
    return ImageFont.load_default(size)
