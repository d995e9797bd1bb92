"""The notebooks run from their first cell to the last, and leave nothing beside the folder of their run."""

from __future__ import annotations

import resource
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.house.source import ROOT
from tests.house.test_documents import NOTEBOOKS

LIMIT = 360.0
"""Seconds of processor time: three minutes on two cores."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_no_cell_raises(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASTSSL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    notebook = nbformat.read(ROOT / path, as_version=4)  # type: ignore[no-untyped-call]
    place = {"metadata": {"path": str(tmp_path / "work")}}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    nbclient.NotebookClient(notebook, timeout=1200, resources=place).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LIMIT
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["runs"]
    assert str(notebook).count("'image/png'") == 3
