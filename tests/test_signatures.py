"""The oracle is the import: what the source is read to say must be what Python says of the factory."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from castssl import registry
from castssl.options import accepted
from castssl.signatures import written

SOURCE = '''
from __future__ import annotations
from functools import partial
import typing
from typing import Literal

Way = Literal["a", "b"]
LIMIT = 3
raise_ = 1 / len(__import__("sys").argv[:1])

class Named:
    """Says what.

        Indented.
    """
    def __init__(self, dim: int, heads: int | None = None, *, way: Way = "a", most: int = LIMIT): ...

class Heir(Named):
    """Inherits."""

class Quoted:
    def __init__(self, dim: "int", way: "Way" = "b", rate=-1e-6, seen: typing.Literal[1, 2] = 1): ...

def plain(dim, /, a: tuple[int, ...] = (1, 2), *, b: bool = True):
    """A function."""

def computed(dim, a=len("x")): ...
def open_ended(dim, **options): ...
def needy(dim, *, a): ...
def short(): ...
class Meta(metaclass=type):
    def __init__(self, dim): ...
@partial
def wrapped(dim): ...
class Foreign(partial): ...
ready = partial(plain)
'''


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wares.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wares", raising=False)


@pytest.mark.parametrize("name", ["Named", "Heir", "Quoted", "plain"])
def test_it_is_what_an_import_would_say(name: str) -> None:
    found = written("wares", name, 1)
    assert "wares" not in sys.modules
    factory = getattr(__import__("wares"), name)
    assert found is not None
    assert found.options == accepted(factory, 1)
    assert found.docstring == (inspect.getdoc(factory) or "" if factory.__doc__ else "")


@pytest.mark.parametrize(
    "name", ["computed", "open_ended", "needy", "short", "Meta", "wrapped", "Foreign", "ready", "absent"]
)
def test_what_the_source_does_not_tell_is_not_guessed(name: str) -> None:
    assert written("wares", name, 1) is None
    assert "wares" not in sys.modules


def test_without_a_source_nothing_is_told() -> None:
    assert written("sys", "exit", 0) is None
    assert written("nowhere.at.all", "x", 0) is None


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, entry.name) for kind in registry.KINDS for entry in registry.names(kind)]
)
def test_every_installed_plugin_is_described_as_it_is(kind: str, name: str) -> None:
    factory = registry.load(kind, name)
    shown = registry.describe(kind, name)
    for option in accepted(factory, len(registry.ARGUMENTS[kind])):
        assert f"  {option}\n" in shown
    assert shown.endswith(inspect.getdoc(factory) or "")
