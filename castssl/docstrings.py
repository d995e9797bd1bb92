"""Read what a plugin says about itself without importing it: the source is parsed, never run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
HOPS = 4
"""How many re-exports are followed."""


def first_line(module: str, attribute: str) -> str:
    """The first line of what documents ``module:attribute``; ``""`` if there is no source to be read.

    A re-exported name is followed to where it is defined.  An attribute that is neither class nor function,
    such as a ``partial``, is described by its module's docstring.
    """
    try:
        text = _docstring(module, attribute.partition(".")[0], HOPS)
    except (OSError, SyntaxError, ValueError):
        return ""
    return text.strip().partition("\n")[0].strip().replace("``", "")


def _docstring(module: str, attribute: str, hops: int) -> str:
    origin = source(module)
    if origin is None or not hops:
        return ""
    tree = ast.parse(origin.read_bytes())
    for node in tree.body:
        if isinstance(node, Definition) and node.name == attribute:
            return ast.get_docstring(node) or ast.get_docstring(tree) or ""
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if attribute == (alias.asname or alias.name):
                    package = module if origin.name == "__init__.py" else module.rpartition(".")[0]
                    return _docstring(_absolute(node, package), alias.name, hops - 1)
    return ast.get_docstring(tree) or ""


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that ``from ..x import y`` means within ``package``."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def source(module: str) -> Path | None:
    """The file of a module; None if there is none to be read.

    ``importlib.util.find_spec`` would execute the parent packages, so the finders are asked one by one.
    """
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:end]), path)
        if spec is None:
            return None
        path = _locations(spec)
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        return None
    return Path(str(spec.origin))


def _spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        found = finder.find_spec(name, path)
        if found is not None:
            return found
    return None


def _locations(spec: ModuleSpec) -> list[str]:
    try:
        return list(spec.submodule_search_locations or ())
    except KeyError:
        # A namespace package inside another one looks its parent up among the imported modules.
        return []
