"""Pictures of a classifier's results: a confusion matrix, and a reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from castssl.visualization.draw import FAINT, INK, PAPER, truncate

SIDE, LARGEST, MARGIN = 720, 32, 24
"""Pixels of the matrix at most, of a cell at most, and around."""
LONGEST = 320
"""Pixels of a name; the rest of a longer one is left out."""
NAMED, COUNTED = 60, 25
"""So many classes have names beside the matrix, and numbers in its cells."""
BLUE = (31, 78, 140)


def draw_confusion(counts: Tensor, names: Sequence[str], group: int = 1) -> Image.Image:
    """Rows are true classes, columns predicted ones; a cell's shade is its share of the row.

    Args:
        counts: int64 (C, C).
        names: of the C classes.
        group: consecutive classes that are one row and one column, for the heading.
    """
    classes = len(counts)
    cell = max(1, min(LARGEST, SIDE // classes))
    size = max(8, min(12, cell))
    font = ImageFont.load_default(size)
    named = classes <= NAMED
    names = [truncate(name, LONGEST, size) for name in names] if named else names
    left = MARGIN + (int(max(font.getlength(name) for name in names)) + 8 if named else 0)
    sides = (left + cell * classes + MARGIN, 2 * MARGIN + cell * classes)
    picture = Image.new("RGB", sides, PAPER)
    draw = ImageDraw.Draw(picture)
    heading = "predicted class, in the order of the rows" + f", {group} classes each" * (group > 1)
    draw.text((left, 4), heading, INK, font)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    for row in range(classes):
        top = MARGIN + row * cell
        if named:
            draw.text((left - 6, top + cell // 2), names[row], INK, font, anchor="rm")
        for column in counts[row].nonzero().flatten().tolist():  # A share of 0 has the color of the paper.
            x, share = left + column * cell, float(shares[row, column])
            draw.rectangle((x, top, x + cell - 1, top + cell - 1), _shade(share))
            if classes <= COUNTED and counts[row, column]:
                ink = PAPER if share > 0.5 else INK
                middle = (x + cell // 2, top + cell // 2)
                draw.text(middle, str(int(counts[row, column])), ink, font, anchor="mm")
    draw.rectangle((left - 1, MARGIN - 1, left + cell * classes, MARGIN + cell * classes), outline=FAINT)
    return picture


def draw_reliability(bins: Sequence[tuple[int, float, float]], error: float) -> Image.Image:
    """Accuracy against mean probability in each bin; the diagonal is a calibrated classifier.

    Args:
        bins: of :meth:`castssl.evaluation.predictions.Level.reliability`.
        error: the calibration error, in [0, 1].
    """
    side, wide = 300, 300 // len(bins)
    picture = Image.new("RGB", (side + 2 * MARGIN, side + 3 * MARGIN), PAPER)
    draw, font, low = ImageDraw.Draw(picture), ImageFont.load_default(12), MARGIN + side
    draw.text((MARGIN, 5), f"accuracy by probability; ECE {100 * error:.1f} %", INK, font)
    for place, (count, _, accuracy) in enumerate(bins):
        if count:
            x = MARGIN + place * wide
            draw.rectangle((x, low - round(side * accuracy), x + wide - 2, low), BLUE)
    draw.line((MARGIN, low, MARGIN + side, MARGIN), FAINT, 2)
    draw.rectangle((MARGIN, MARGIN, MARGIN + side, low), outline=FAINT)
    for share in (0, 0.5, 1):
        draw.text((MARGIN + side * share, low + 6), f"{share:g}", INK, font, anchor="ma")
    return picture


def _shade(share: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 + (ink - 255) * share) for ink in BLUE)
    return red, green, blue
