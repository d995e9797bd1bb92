"""Every installed plugin, castssl's own and others', under the contract checks of its kind.

But those of plugins/ here: their own tests run the checks, with the options and deviations that they declare.
"""

from __future__ import annotations

import re
from pathlib import Path

from castssl import registry
from castssl.testing import Check, Subject, objectives, parametrize, pooling, superpixels

SMALLER = {"moco": "moco:hidden=64,out=16"}
"""The same objective with fewer weights than its default, which take a minute to check."""
PLUGINS = Path(__file__).parents[2].glob("plugins/*/tests/test_*.py")
TESTED = {
    name
    for project in {path.parents[1] / "pyproject.toml" for path in PLUGINS}
    for name in re.findall(r'(?m)^name = "(.+)"$', project.read_text(encoding="utf-8"))
}
"""Distributions with tests of their own beside this file's."""
READERS = {"clip"}
"""Objectives whose encoder must read class names, as no sample encoder can: tests/objectives/test_clip.py."""
REFERENCE = "graph:padding=reference"
LEAKS = "the published models let padding take part; this option exists to reproduce them"


def installed(kind: str) -> list[Subject]:
    """The name of each installed plugin of a kind that has no tests here."""
    found = {entry.name for entry in registry.names(kind) if entry.distribution not in TESTED}
    return [SMALLER.get(name, name) for name in sorted(found - READERS)]


@parametrize(superpixels.checks, [*installed("superpixels"), "grid:runs_on=worker"])
def test_superpixels(check: Check, subject: Subject) -> None:
    check(subject)


@parametrize(
    pooling.checks,
    [*installed("pooling"), "graph:centroids=random", "graph:centroids=received", REFERENCE],
    expected_failures={
        (REFERENCE, "check_padding_changes_nothing"): LEAKS,
        (REFERENCE, "check_padding_gets_no_gradient"): LEAKS,
    },
)
def test_pooling(check: Check, subject: Subject) -> None:
    check(subject)


@parametrize(objectives.checks, [*installed("objectives"), "deit:ema=0.9,bce=true"])
def test_objectives(check: Check, subject: Subject) -> None:
    check(subject)


def test_the_built_ins_are_among_them() -> None:
    assert {"grid", "seeds"} <= set(installed("superpixels"))
    assert {"graph", "random"} <= set(installed("pooling"))
    assert SMALLER["moco"] in installed("objectives")
