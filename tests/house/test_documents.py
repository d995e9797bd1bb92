"""Documents: links lead to files and sections, Python blocks compile, notebooks hold no results."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.house import source

DOCUMENTS = [path for path in source.files() if path.suffix == ".md"]
NOTEBOOKS = [path for path in source.files() if path.suffix == ".ipynb"]
README = (source.ROOT / "README.md").read_text(encoding="utf-8")
LARGEST_PICTURE = 150_000
"""Bytes."""


def links(document: str) -> list[str]:
    """The targets of a document's relative links and images, in text outside of code."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", document, flags=re.DOTALL)
    return re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose)


def anchors(document: str) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    titles = re.findall(r"(?m)^#+ (.+)$", re.sub(r"```.*?```", "", document, flags=re.DOTALL))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(document: str, folder: Path) -> list[str]:
    """The links of a document in ``folder`` that lead to no file, or to no heading of it."""
    wrong = []
    for link in links(document):
        name, _, anchor = link.partition("#")
        path = source.ROOT / folder / name
        if not path.exists():
            wrong.append(link)
        elif anchor:
            text = path.read_text(encoding="utf-8") if name else document
            wrong += [] if anchor in anchors(text) else [link]
    return wrong


def blocks(document: str) -> list[str]:
    """The Python code blocks of a document, without the indentation of a list."""
    found = re.findall(r"(?m)^( *)```python\n(.*?)^ *```", document, re.DOTALL)
    return [re.sub(rf"(?m)^{indent}", "", text) for indent, text in found]


def resolve(module: str, name: str) -> None:
    """Import ``name`` of ``module``; an ImportError or AttributeError if there is none."""
    found: Any = importlib.import_module(module)
    if not hasattr(found, name):
        importlib.import_module(f"{module}.{name}")


def stored(notebook: str) -> list[str]:
    """What a notebook stores of an execution: numbers of cells, outputs, and paths of a machine."""
    cells = [cell for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    paths = re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|mnt|Users)/[^\s\"]*|[A-Z]:\\{2}\w+", notebook)
    return [*paths, *(str(cell) for cell in cells if cell["outputs"] or cell["execution_count"] is not None)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_notebooks_hold_no_output_and_no_path_of_a_machine(path: Path) -> None:
    assert not stored((source.ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "change", [{"outputs": [{}]}, {"execution_count": 1}, {"source": ["x = '/home/me/x'"]}]
)
def test_what_an_execution_leaves_is_found(change: dict[str, Any]) -> None:
    clean = {"cell_type": "code", "source": ["x = 'runs/notebook'"], "outputs": [], "execution_count": None}
    assert not stored(json.dumps({"cells": [clean]}))
    assert stored(json.dumps({"cells": [clean | change]}))


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    document = (source.ROOT / path).read_text(encoding="utf-8")
    assert not broken(document, path.parent), f"{path} links to {broken(document, path.parent)}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_python_blocks_compile_and_import_names_that_exist(path: Path) -> None:
    for block in blocks((source.ROOT / path).read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    resolve(node.module, alias.name)


def test_the_first_screen_of_the_readme_has_a_small_image_and_six_lines_of_python() -> None:
    head, use = "\n".join(README.splitlines()[:12]), "\n".join(README.splitlines()[:30])
    (image,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", head)
    assert (source.ROOT / image).stat().st_size < LARGEST_PICTURE
    (block,) = blocks(use)
    assert len(block.splitlines()) == 6
    assert "import castssl" in block


@pytest.mark.parametrize(
    "text", ["[a](nothing.md)", "[a](#nothing)", "[a](CONTRIBUTING.md#nothing)", "![a](docs/nothing.jpg)"]
)
def test_a_broken_link_is_found(text: str) -> None:
    assert broken(f"# Title\n\n{text}\n[b](#title)\n[c](CONTRIBUTING.md#the-spine)", Path()) == links(text)


def test_indented_blocks_are_found() -> None:
    assert blocks("- item\n\n  ```python\n  import a\n\n  a.b()\n  ```\n") == ["import a\n\na.b()\n"]
