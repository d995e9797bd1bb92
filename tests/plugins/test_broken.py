"""One broken plugin never stops the others: all of them are on the path at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from castssl import registry
from castssl.commands.environment import plugins
from castssl.errors import AmbiguousPlugin, BrokenPlugin
from tests.plugins.packages import BROKEN, HEALTHY


@pytest.fixture(autouse=True)
def _all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in (*BROKEN, HEALTHY):
        monkeypatch.syspath_prepend(str(package.write(tmp_path / package.name)))


def test_every_readable_entry_is_listed() -> None:
    found = [(entry.name, entry.distribution) for entry in registry.names("pooling")]
    for package in BROKEN:
        for name in package.points.get("pooling", ()):
            assert (name, package.name) in found
    assert ("graph", "castssl") in found
    assert found == sorted(found)


def test_the_others_load() -> None:
    assert registry.load("pooling", "healthy").__name__ == "Pool"
    assert registry.load("pooling", "random").__name__ == "RandomSampling"
    assert registry.build("superpixels", "grid").capacity(32, 32) == 4


@pytest.mark.parametrize("name", ["unimportable", "missing", "exiting", "no_dim"])
def test_each_broken_one_says_so(name: str) -> None:
    with pytest.raises(BrokenPlugin, match=f"'{name}' of castssl-"):
        registry.load("pooling", name)


def test_a_built_in_is_not_overwritten() -> None:
    with pytest.raises(AmbiguousPlugin, match=r"castssl \d.*and by castssl-duplicate 1\.0"):
        registry.load("pooling", "graph")


def test_unreadable_metadata_are_named() -> None:
    assert [text for text in registry.faults() if "castssl_malformed-1.0.dist-info" in text]


def test_the_doctor_names_each_and_blames_only_what_is_needed() -> None:
    findings = {finding.topic: finding for finding in plugins()}
    assert findings["pooling healthy"].state == "ok"
    assert findings["pooling unimportable"].state == "note"
    assert findings["pooling graph"].state == "broken"
    assert "castssl-duplicate" in findings["pooling graph"].text
    assert "malformed" in findings["plugins"].text
