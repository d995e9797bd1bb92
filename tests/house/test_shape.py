"""Lengths, names, docstrings, and words that must not be in the project's files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house import source

LONGEST_FILE = {"recipes": 250}
"""Lines a file may have; 500 where nothing is said."""
LONGEST_FUNCTION = 50
"""Lines a function may have, its docstring not counted."""
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch"))]
PLACES = ["/" + place + "/" for place in ("root", "home", "work", "Users", "tmp")]
EVERYTHING = source.python("castssl", "recipes", "plugins", "tests")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def length(node: Function) -> int:
    """The lines of a function, without those of its docstring."""
    first = node.body[0]
    documented = ast.get_docstring(node, clean=False) is not None
    spent = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (node.end_lineno or 0) - node.lineno + 1 - spent


def undocumented(tree: ast.Module) -> list[str]:
    """Public classes and functions of a module (not methods, not overloads) that lack a docstring."""
    nodes = [n for n in tree.body if isinstance(n, ast.ClassDef | Function) and not n.name.startswith("_")]
    nodes = [n for n in nodes if "overload" not in {getattr(d, "id", "") for d in n.decorator_list}]
    return [node.name for node in nodes if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", EVERYTHING, ids=str)
def test_files_are_short(path: Path) -> None:
    lines = len((source.ROOT / path).read_text(encoding="utf-8").splitlines())
    most = LONGEST_FILE.get(path.parts[0], 500)
    assert lines <= most, f"{path} has {lines} lines, at most {most}: split it by responsibility"


@pytest.mark.parametrize("path", EVERYTHING, ids=str)
def test_functions_are_short(path: Path) -> None:
    nodes = [node for node in ast.walk(source.tree(path)) if isinstance(node, Function)]
    long = [f"{path}:{node.lineno} {node.name}" for node in nodes if length(node) > LONGEST_FUNCTION]
    assert not long, f"longer than {LONGEST_FUNCTION} lines: {long}"


def test_no_file_is_a_drawer() -> None:
    drawers = [str(path) for path in source.files() if FORBIDDEN_NAMES & {Path(p).stem for p in path.parts}]
    assert not drawers, f"name these after what they do: {drawers}"


@pytest.mark.parametrize("path", source.python("castssl", "recipes"), ids=str)
def test_public_things_are_documented(path: Path) -> None:
    tree = source.tree(path)
    assert ast.get_docstring(tree), f"{path} does not say what it is responsible for"
    assert not undocumented(tree), f"{path}: no docstring: {undocumented(tree)}"


@pytest.mark.parametrize("word", [*HOSTS, *PLACES])
def test_no_machine_path_and_no_registry_host(word: str) -> None:
    own = source.ROOT / "tests" / "house"
    paths = [source.ROOT / path for path in source.files() if own not in (source.ROOT / path).parents]
    found = [f"{path}:{number}" for path in paths for number, line in text(path) if holds(line, word)]
    assert not found, f"{word} belongs to one machine or registry, not into the project: {found}"


def text(path: Path) -> list[tuple[int, str]]:
    """The numbered lines of a file; none if it is not text."""
    try:
        return list(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    except UnicodeDecodeError:
        return []


def holds(line: str, word: str) -> bool:
    """True if ``word`` occurs in ``line`` as a whole: ``a/tmp/b`` and ``xpypi`` do not count."""
    before, found, _ = line.partition(word)
    return bool(found) and not (before[-1:].isalnum() or before[-1:] in set("._-}~"))


def test_holds_sees_paths_and_leaves_words() -> None:
    assert holds(f"cd {PLACES[2]}main", PLACES[2])
    assert not holds("net" + PLACES[2] + "x", PLACES[2])
    assert holds("see https://" + HOSTS[0], HOSTS[0])
