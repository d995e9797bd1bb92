"""Attributes are declared by base classes, not probed; types are stated, not cast."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import source

CASTS = 10
"""At most so many calls of typing.cast in the package."""
FILES = [path for path in source.python("castssl") if path.parts[1] != "testing"]
"""The contract checks probe what they are given: it may be anything."""


def probes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and words of each place that asks whether an attribute is there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in {"hasattr", "vars"} or (node.func.id == "getattr" and len(node.args) > 2):
                yield node.lineno, f"{node.func.id}()"
        elif isinstance(node, ast.Attribute) and node.attr == "__dict__":
            yield node.lineno, "__dict__"
        elif isinstance(node, ast.ExceptHandler) and node.type is not None:
            caught = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            if "AttributeError" in caught:
                yield node.lineno, "except AttributeError"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_is_probed(path: Path) -> None:
    found = [f"{path}:{line} {words}" for line, words in probes(ast.parse((source.ROOT / path).read_text()))]
    assert not found, f"declare the attribute with a default in a base class instead: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "getattr(x, 'a', 1)",
        "hasattr(x, 'a')",
        "vars(x)",
        "x.__dict__",
        "try: x.a\nexcept AttributeError: pass",
        "try: x.a\nexcept (KeyError, AttributeError): pass",
    ],
)
def test_each_way_to_probe_is_found(code: str) -> None:
    assert len(list(probes(ast.parse(code)))) == 1


def test_an_attribute_by_a_name_is_no_probe() -> None:
    assert not list(probes(ast.parse("getattr(x, name)")))


def test_casts_are_rare() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path in source.python("castssl")
        for node in ast.walk(ast.parse((source.ROOT / path).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cast"
    ]
    assert len(found) <= CASTS, f"state the type where the value is made: {found}"
