"""How numbers went during a run, drawn from its ``log.jsonl`` without a plotting library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from castssl.errors import DataError
from castssl.pictures.draw import CAPTION, FAINT, GAP, INK, PAPER, font

Points = list[tuple[float, float]]

LINE, RULE = (38, 110, 196), (222, 222, 226)
MARGIN = 2 * GAP
FINE = 2
"""Drawn so many times larger and shrunk, lines come out smooth."""


def curves(log: Path, names: Sequence[str], *, width: int = 400, height: int = 200) -> Image.Image:
    """One panel a name, side by side: the value over the optimizer step, with its range and last value.

    Args:
        log: a file of JSON lines; lines without a "step" or the name, or where it is null, are skipped.
        names: keys of those lines, such as "loss".
        width: of a panel, in pixels.
        height: likewise.

    Returns:
        An RGB image.

    Raises:
        DataError: if a name never occurs, or the file is missing or holds something else.
    """
    lines = _read(log)
    page = Image.new("RGB", (len(names) * width, height), PAPER)
    for i, name in enumerate(names):
        pairs = ((_number(line.get("step")), _number(line.get(name))) for line in lines)
        points = [(step, value) for step, value in pairs if step is not None and value is not None]
        if not points:
            known = sorted(
                {key for line in lines for key, value in line.items() if _number(value) is not None}
            )
            raise DataError(f"{log} has no number called {name!r}; it has {', '.join(known) or 'none'}")
        page.paste(_panel(name, points, width, height), (i * width, 0))
    return page


def _read(log: Path) -> list[dict[str, object]]:
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {log} as JSON lines ({error}); give a run's log.jsonl") from error
    if not all(isinstance(line, dict) for line in lines):
        raise DataError(f"cannot read {log}: a line is not a JSON object; give a run's log.jsonl")
    return lines


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _panel(name: str, points: Points, width: int, height: int) -> Image.Image:
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
    box = (MARGIN, MARGIN + 2 * CAPTION, width - MARGIN, height - MARGIN - CAPTION)

    def place(step: float, value: float) -> tuple[float, float]:
        across = (step - left) / (right - left or 1)
        up = (value - low) / (high - low) if high > low else 0.5
        return box[0] + across * (box[2] - box[0]), box[3] - up * (box[3] - box[1])

    large = Image.new("RGB", (FINE * width, FINE * height), PAPER)
    pen = ImageDraw.Draw(large)
    for rule in (box[1], box[3]):
        pen.line([FINE * box[0], FINE * rule, FINE * box[2], FINE * rule], fill=RULE, width=FINE)
    track = [(FINE * x, FINE * y) for x, y in (place(*point) for point in points)]
    pen.line(track, fill=LINE, width=2 * FINE, joint="curve")
    x, y = track[-1]
    pen.ellipse([x - 3 * FINE, y - 3 * FINE, x + 3 * FINE, y + 3 * FINE], fill=LINE)
    panel = large.resize((width, height), Image.Resampling.BOX)
    _write(ImageDraw.Draw(panel), box, name, points, (low, high))
    return panel


def _write(
    pen: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    name: str,
    points: Points,
    span: tuple[float, float],
) -> None:
    small = font(CAPTION - 2)
    pen.text((box[0], MARGIN // 2), name, fill=INK, font=font(CAPTION))
    pen.text((box[2], MARGIN // 2), f"{points[-1][1]:.4g}", fill=LINE, font=font(CAPTION), anchor="ra")
    pen.text((box[0], box[1] - 2), f"{span[1]:.4g}", fill=FAINT, font=small, anchor="lb")
    pen.text((box[0], box[3] + 3), f"{span[0]:.4g}", fill=FAINT, font=small, anchor="la")
    pen.text(
        (box[2], box[3] + 3), f"step {max(step for step, _ in points):g}", fill=FAINT, font=small, anchor="ra"
    )
