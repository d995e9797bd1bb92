from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from castssl.fields import build, spell


@dataclass(frozen=True)
class Part:
    low: float = 0.5


@dataclass(frozen=True)
class Whole:
    count: int
    part: Part = Part()
    fast: bool = False
    names: tuple[str, ...] = ()
    size: int | tuple[int, int] = 1
    kind: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int, "a whole number"),
        (tuple[int, ...], "a list of whole numbers"),
        (list[str], "a list of text"),
        (tuple[int, float], "2 values: a whole number, a number"),
        (Path | None, "a path or nothing"),
        (Literal["a", "b"], "one of a, b"),
        (Part, "Part"),
    ],
)
def test_types_in_plain_words(hint: Any, expected: str) -> None:
    assert spell(hint) == expected


def test_a_union_takes_the_first_kind_that_fits() -> None:
    problems: list[str] = []
    assert build(Whole, {"count": 1, "size": [2, 3]}, "", problems) == Whole(1, size=(2, 3))
    assert build(Whole, {"count": 1, "size": 2}, "", problems) == Whole(1, size=2)
    assert problems == []
    assert build(Whole, {"count": 1, "size": "x"}, "", problems) is None
    assert problems == ["size: got 'x', expected a whole number or 2 values: a whole number, a whole number"]


def test_nested_settings_are_named_by_their_place() -> None:
    problems: list[str] = []
    build(Whole, {"part": {"low": "x", "high": 1}, "names": "ab"}, "", problems)
    assert sorted(problems) == [
        "count: missing, expected a whole number",
        "names: got 'ab', expected a list of text",
        "part.high: unknown setting",
        "part.low: got 'x', expected a number",
    ]
