from __future__ import annotations

import sys
from pathlib import Path

import pytest

from castssl.docstrings import first_line, source

SOURCES = {
    "shop/__init__.py": "from .deep.inner import Thing as Renamed\nfrom shop.flat import make\n",
    "shop/flat.py": '"""Flat."""\nfrom functools import partial\nraise RuntimeError\n'
    'def make():\n    """Makes ``it``.\n\n    And more.\n    """\nready = partial(make)\n',
    "shop/deep/__init__.py": "raise RuntimeError('executed')\n",
    "shop/deep/inner.py": 'class Thing:\n    """\n    A thing.\n    """\nclass Bare: ...\n',
    "shop/wrong.py": "class Thing(:\n",
    "shop/round.py": "from shop.round import Thing\n",
}


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("module", "attribute", "expected"),
    [
        ("shop.flat", "make", "Makes it."),
        ("shop.flat", "ready", "Flat."),
        ("shop", "Renamed", "A thing."),
        ("shop", "make", "Makes it."),
        ("shop.deep.inner", "Thing", "A thing."),
        ("shop.deep.inner", "Bare", ""),
        ("shop.wrong", "Thing", ""),
        ("shop.round", "Thing", ""),
        ("shop.absent", "Thing", ""),
        ("nowhere.at.all", "Thing", ""),
        ("sys", "path", ""),
        ("", "", ""),
    ],
)
def test_first_line_is_read_and_nothing_runs(module: str, attribute: str, expected: str) -> None:
    assert first_line(module, attribute) == expected
    assert not any(name.partition(".")[0] == "shop" for name in sys.modules)


def test_source_finds_a_submodule_without_its_parents(tmp_path: Path) -> None:
    assert source("shop.deep.inner") == tmp_path / "shop" / "deep" / "inner.py"
