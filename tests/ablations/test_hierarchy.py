"""The hierarchy study: the poster's numbers stand below ours."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from castssl.ablations import study, table
from castssl.shipped import recipe

MODULE: dict[str, Any] = runpy.run_path(str(recipe("ablations/hierarchy")))


def test_each_data_set_has_the_poster_s_rows() -> None:
    tables = MODULE["poster"]()
    assert list(tables) == [f"breeds:{name}" for name in ("living17", "nonliving26", "entity13", "entity30")]
    lines = tables["breeds:living17"].splitlines()
    assert "| H-CAST | 26.2 | 85.12 | 90.82 | 85.24 | 87.10 | 3.19 | 32.83 |" in lines
    assert "| CAST |  |  |  |  |  |  | 31.02 |" in lines
    assert "| Flat-CAST | 78.5 | 78.82 | 88.06 | 82.88 | 84.61 | 8.82 |  |" in lines
    assert [len([line for line in each.splitlines() if line[0:1] == "|"]) for each in tables.values()] == [
        12
    ] * 4


@pytest.mark.parametrize(("data", "others"), [("breeds:entity13:x", 0), ("cub:x", 3)])
def test_the_numbers_of_the_data_set_stand_below_the_table(
    data: str, others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of data that the poster does not have, all are shown."""
    written: list[str] = []

    def conduct(found: Any, args: Any, name: str) -> int:
        written.append(table.document(found, tmp_path, table.rows(found, tmp_path, {})))
        return 0

    monkeypatch.setattr(study, "conduct", conduct)
    monkeypatch.setattr(sys, "argv", ["hierarchy"])
    assert study.main(MODULE["STUDY"], demo=MODULE["DEMO"], argv=["--data", data]) == 0
    section = written[0].partition("## Published")[2].partition("## Commands")[0]
    assert "| H-CAST | 26.2 | 85.68 | 93.42 | 86.15 | 87.60 | 1.69 | 16.19 |" in section
    assert section.count("| H-CAST |") == 1 + others
