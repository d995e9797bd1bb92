"""What the house tests read: the project's own files, and who imports whom in them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = {"runs", "dist", "build", "__pycache__"}
"""Folders that hold no source; neither do hidden ones, but for ``.ci``."""


@cache
def files() -> tuple[Path, ...]:
    """Every file that belongs to the project, relative to its root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        found = [Path(name) for name in listed.stdout.split("\0") if name]
    else:
        found = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return tuple(sorted(path for path in found if (ROOT / path).is_file() and not built(path)))


def built(path: Path) -> bool:
    """True for what a tool made: it may lie here when there is no git to say so."""
    hidden = any(part.startswith(".") and part != ".ci" for part in path.parts[:-1])
    return hidden or bool(BUILT & set(path.parts)) or any(part.endswith(".egg-info") for part in path.parts)


def python(*tops: str) -> list[Path]:
    """The Python files under the named top folders."""
    return [path for path in files() if path.suffix == ".py" and path.parts[0] in tops]


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a project file."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def module(path: Path) -> str:
    """The dotted name of a file of the package: ``castssl/types.py`` -> ``castssl.types``."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports; ``from a import b`` gives ``a.b``."""
    package = list(path.parts[:-1])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
