"""The numbers on H-CAST's poster, compared with each other: what does not fit is listed in the docs."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import combinations, pairwise
from math import floor
from pathlib import Path
from typing import NamedTuple

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
DOCS = (RECIPES / "hierarchy.md").read_text(encoding="utf-8")
CLASSES = {"Living-17": (17, 34), "Non-Living-26": (26, 52), "Entity-13": (13, 130), "Entity-30": (30, 120)}
"""Coarse and fine ones."""
COLUMNS = ("fpa", "coarse", "fine", "wap", "tice")
ROUNDED = Decimal("0.01")
"""How far a printed number may be from what follows from printed numbers, each rounded or cut to 0.01."""


class Row(NamedTuple):
    """What a method reached, in percent."""

    data: str
    method: str
    fpa: Decimal
    coarse: Decimal
    fine: Decimal
    wap: Decimal
    tice: Decimal


class Doubt(NamedTuple):
    """A printed number and what is wrong with it, in the words of the docs."""

    data: str
    method: str
    column: str
    printed: str
    why: str


def read() -> list[Row]:
    lines = (RECIPES / "ablations" / "hcast_poster.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return [
        Row(row["data"], row["method"], *(Decimal(row[column]) for column in COLUMNS))
        for row in rows
        if row["fpa"]
    ]


GAINS = [row for row in read() if row.method == "gain"]
ROWS = [row for row in read() if row.method != "gain"]


def weighted(row: Row) -> Decimal:
    """The mean of coarse and fine accuracy, weighted by the numbers of classes."""
    coarse, fine = CLASSES[row.data]
    return (coarse * row.coarse + fine * row.fine) / (coarse + fine)


def doubt(row: Row, column: str, why: str) -> Doubt:
    return Doubt(row.data, row.method, column, str(getattr(row, column)), why)


def wrong_means() -> Iterator[Doubt]:
    for row in ROWS:
        if abs(row.wap - weighted(row)) > ROUNDED:
            yield doubt(row, "wap", f"coarse and fine give {weighted(row):.2f}")


def impossible() -> Iterator[Doubt]:
    """What no predictions whatever can reach."""
    for row in ROWS:
        for level in ("coarse", "fine"):
            if row.fpa > getattr(row, level) + ROUNDED:
                yield doubt(row, "fpa", f"above the {level} accuracy, {getattr(row, level)}")
        if row.fpa < row.coarse + row.fine - 100 - 2 * ROUNDED:
            yield doubt(row, "fpa", "below what coarse and fine leave")
        if row.tice > 100 - row.fpa + ROUNDED:
            yield doubt(row, "tice", "more than the images whose path is wrong")
        if row.tice < row.fine - row.fpa - 2 * ROUNDED:
            yield doubt(row, "tice", "less than the images that are right at the fine level alone")


def repeated() -> Iterator[Doubt]:
    """Rows printed twice, and single cells that a method has on two data sets."""
    for one, other in combinations(ROWS, 2):
        if one[2:] == other[2:]:
            for row, twin in ((one, other), (other, one)):
                printed = " ".join(map(str, row[2:]))
                yield Doubt(row.data, row.method, "all", printed, f"the row of {twin.method} on {twin.data}")
        elif one.method == other.method:
            for column in COLUMNS:
                if getattr(one, column) == getattr(other, column):
                    yield doubt(one, column, f"the same on {other.data}")
                    yield doubt(other, column, f"the same on {one.data}")


def changed_by_hie() -> Iterator[Doubt]:
    for plain, amended in pairwise(ROWS):
        if amended.method == f"{plain.method} + HiE" and amended.coarse != plain.coarse:
            yield doubt(amended, "coarse", f"HiE leaves {plain.method}'s {plain.coarse} as it is")


def no_count() -> Iterator[Doubt]:
    """Shares that no number of images gives, were they rounded, rounded twice, or cut off."""
    for row in ROWS:
        images = 50 * CLASSES[row.data][1]
        for column in ("fpa", "coarse", "fine", "tice"):
            printed = float(getattr(row, column))
            count = floor(printed * images / 100)
            off = [100 * near / images - printed for near in (count, count + 1)]
            if not any(-0.0056 < each < 0.01 for each in off):
                yield doubt(row, column, f"no share of {images} images")


def listed(title: str) -> list[Doubt]:
    """The rows of the table of the docs below a line of that text, less head and rule."""
    below = DOCS.split(title, 1)[1]
    found = re.search(r"\n((?:\|.*\n)+)", below)
    assert found, f"no table below {title!r}"
    return [Doubt(*(cell.strip() for cell in line.split("|")[1:-1])) for line in found[1].splitlines()[2:]]


@pytest.mark.parametrize("gain", GAINS, ids=lambda row: row.data)
def test_the_digits_give_the_gains_that_are_printed(gain: Row) -> None:
    ours, best = (next(row for row in ROWS if row[:2] == (gain.data, name)) for name in ("H-CAST", "HRN"))
    found = [mine - theirs for mine, theirs in zip(ours[2:], best[2:], strict=True)]
    assert [*found[:4], -found[4]] == list(gain[2:])


def test_wap_is_the_mean_weighted_by_classes() -> None:
    fits = [row for row in ROWS if abs(row.wap - weighted(row)) <= ROUNDED]
    assert (len(fits), len(ROWS)) == (29, 36)
    assert "29 of the poster's 36" in DOCS


def test_the_docs_list_what_contradicts_itself() -> None:
    found = [*wrong_means(), *impossible(), *repeated(), *changed_by_hie()]
    assert sorted(listed("Cells that contradict others")) == sorted(found)


def test_the_docs_list_what_no_number_of_images_gives() -> None:
    assert sorted(listed("Cells that no number of images gives")) == sorted(no_count())
