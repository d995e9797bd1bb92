"""A name of a plugin of plugins/ that is not installed is refused with the command that installs it."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import castssl
from castssl import registry
from castssl.config import read
from castssl.errors import ConfigError, UnknownPlugin
from castssl.registry import SHELF
from castssl.training.hierarchy import HierarchyConfig
from tests.acceptance.conftest import Command
from tests.forked import ROOT

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
installed = metadata.distributions


@pytest.fixture
def castssl_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in an environment without the distributions of plugins/."""

    def without() -> Iterator[metadata.Distribution]:
        return (found for found in installed() if found.metadata["Name"] not in SHELF)

    monkeypatch.setattr(metadata, "distributions", without)
    registry._points_of.cache_clear()
    yield
    registry._points_of.cache_clear()


def project_in(message: str) -> str:
    """The name of the distribution in the folder that the message's command installs."""
    (command,) = re.findall(r"`([^`]*pip install [^`]*)`", message)
    project = tomllib.loads((Path(shlex.split(command)[-1]) / "pyproject.toml").read_text())["project"]
    name: str = project["name"]
    return name


@pytest.mark.usefixtures("castssl_alone")
@pytest.mark.parametrize("method", ["flat-cast", "flat-vit", "transhp", "fgn:width=8", "hrn", "clip"])
def test_a_method_before_any_work(method: str) -> None:
    with pytest.raises(ConfigError, match="--method: no objectives") as caught:
        read(HierarchyConfig, ["--data", "demo", "--method", method])
    assert project_in(str(caught.value)) == "castssl-baselines"


@pytest.mark.usefixtures("castssl_alone")
@pytest.mark.parametrize("method", ["hcast", "hier-vit"])
def test_methods_of_castssl_need_no_plugin(method: str) -> None:
    assert read(HierarchyConfig, ["--data", "demo", "--method", method]).method == method


@pytest.mark.usefixtures("castssl_alone")
def test_a_model_and_a_pooling(command: Command) -> None:
    with pytest.raises(UnknownPlugin, match="no encoders plugin is called 'clip'") as caught:
        castssl.create("clip:ViT-B-32")
    assert project_in(str(caught.value)) == "castssl-baselines"
    assert "timm (castssl" in str(caught.value)
    done = command("describe", "pooling", "tome")
    assert done.code == 1
    assert project_in(done.err) == "castssl-clustering"


def test_the_shelf_is_what_the_projects_register() -> None:
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for path in sorted((ROOT / "plugins").glob("castssl-*/pyproject.toml")):
        project = tomllib.loads(path.read_text())["project"]
        found[project["name"]] = {
            group.removeprefix("castssl."): tuple(sorted(points))
            for group, points in project["entry-points"].items()
            if group.removeprefix("castssl.") in registry.KINDS
        }
    found = {name: kinds for name, kinds in found.items() if kinds}
    assert found == {name: dict(kinds) for name, kinds in SHELF.items()}
