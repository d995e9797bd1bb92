from __future__ import annotations

import json
from pathlib import Path

import pytest

from castssl.errors import DataError
from castssl.pictures.curve import LINE, curves


def log(folder: Path, *lines: object) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def heights(page: object, column: int) -> list[int]:
    """Rows of a column where the line passes."""
    from PIL.Image import Image

    assert isinstance(page, Image)
    return [y for y in range(30, page.height - 30) if page.getpixel((column, y)) == LINE]


def test_a_falling_number_falls(tmp_path: Path) -> None:
    path = log(tmp_path, *({"step": s, "loss": 10 - s, "note": "x"} for s in range(10)))
    page = curves(path, ["loss"], width=300, height=200)
    assert page.size == (300, 200)
    assert max(heights(page, 60)) < min(heights(page, 240))


def test_each_name_has_its_panel_and_gaps_are_skipped(tmp_path: Path) -> None:
    path = log(tmp_path, {"event": "start"}, {"step": 1, "loss": None}, {"step": 2, "loss": 3, "knn": 0.1})
    assert curves(path, ["loss", "knn"], width=120, height=100).size == (240, 100)


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no number called 'knn'; it has loss, step"):
        curves(log(tmp_path, {"step": 1, "loss": 2.0}), ["knn"])
    with pytest.raises(DataError, match="not a JSON object"):
        curves(log(tmp_path, [1]), ["knn"])
    with pytest.raises(DataError, match="cannot read"):
        curves(tmp_path / "none.jsonl", ["knn"])
