"""What the README and pyproject.toml promise exists."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from castssl import registry
from tests import forked
from tests.house import source

PAPERS: Any = runpy.run_path(str(source.ROOT / "docs" / "write_numbers.py"))["read"]()
README = (source.ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (source.ROOT / "Makefile").read_text(encoding="utf-8")
tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def code(document: str) -> str:
    """All code of a Markdown text: fenced blocks and inline spans, continued lines joined."""
    fenced = re.findall(r"```[^\n]*\n(.*?)```", document, re.DOTALL)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", document, flags=re.DOTALL))
    return "\n".join([*fenced, *inline]).replace("\\\n", " ")


CODE = code(README)
TARGETS = sorted(set(re.findall(r"(?m)^(?:\$ )?make ([a-z-]+)", CODE)))
RECIPES = sorted(set(re.findall(r"recipes/[\w/]+\.py", CODE)))
COMMANDS = sorted(set(re.findall(r"(?m)^(?:\$ )?castssl ([a-z][a-z-]*)", CODE)))
NAMES = sorted(set(re.findall(r"\bcastssl(?:\.[A-Za-z_]\w*)+", CODE)) - {"castssl.egg"})
PROJECTS = [path for path in source.files() if path.name == "pyproject.toml"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The finished run of this Python with ``arguments``."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=source.ROOT, capture_output=True, text=True, check=False, timeout=120)


@cache
def usage(recipe: str) -> str:
    """The help text of a recipe."""
    answer = forked.run([recipe, "--help"])
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def test_the_first_lines_hold_the_two_commands() -> None:
    head = code("\n".join(README.splitlines()[:25]))
    assert re.findall(r"(?m)^(?:\$ )?make \w+", head)[:2] == ["make demo", "make test"]


def test_continuous_integration_runs_the_same_command() -> None:
    script = (source.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"(?m)^exec make test$", script)


@pytest.mark.parametrize("target", TARGETS)
def test_make_target_exists(target: str) -> None:
    assert re.search(rf"(?m)^{target}:", MAKEFILE)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_exists_and_knows_its_flags(recipe: str) -> None:
    lines = [line.split(recipe, 1)[1] for line in CODE.splitlines() if recipe in line]
    flags = {flag for line in lines for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", line.split("#")[0])}
    unknown = [flag for flag in sorted(flags) if not re.search(rf"{flag}(?![\w-])", usage(recipe))]
    assert not unknown, f"the README calls {recipe} with {unknown}"


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command: str) -> None:
    answer = forked.run(["-m", "castssl.cli", command, "--help"])
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("name", NAMES)
def test_python_name_exists(name: str) -> None:
    parts = name.split(".")
    if any(name == f"castssl.{kind}" for kind in registry.KINDS):
        return
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return
    pytest.fail(f"{name} does not import")


def entries(path: Path) -> list[tuple[str, str, str]]:
    """Group, name and value of each entry point and script that a pyproject.toml declares."""
    project = tomllib.loads((source.ROOT / path).read_text(encoding="utf-8"))["project"]
    groups = {"scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    return [(group, name, value) for group, table in groups.items() for name, value in table.items()]


@pytest.mark.parametrize(
    ("group", "name", "value"), [entry for path in PROJECTS for entry in entries(path)], ids=str
)
def test_entry_point_imports(group: str, name: str, value: str) -> None:
    module, _, attribute = value.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    assert callable(found), f"{group}: {name} = {value} cannot be called"
    assert found.__doc__, f"{group}: {name} says nothing about itself in `castssl list`"


@pytest.mark.parametrize("module", ["castssl", "castssl.registry", "castssl.cli"])
def test_the_command_line_starts_without_torch(module: str) -> None:
    answer = run("-c", f"import sys, {module}; sys.exit('torch' in sys.modules)")
    assert answer.returncode == 0, answer.stderr or f"{module} imports torch"


def test_fragments_are_named_by_issue_and_kind() -> None:
    kinds = {"added", "changed", "fixed", "removed", "measured"}
    pattern = rf"\d+(-[a-z-]+)?\.({'|'.join(kinds)})\.md"
    names = [path.name for path in source.files() if path.parts[0] == "changelog"]
    names.remove("README.md")
    wrong = [name for name in names if not re.fullmatch(pattern, name)]
    assert names, "no change was written down"
    assert not wrong, f"see changelog/README.md: {wrong}"


def test_the_citation_has_the_version_and_the_license_of_the_package() -> None:
    yaml: Any = importlib.import_module("yaml")
    cited = yaml.safe_load((source.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((source.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert all({"type", "title", "authors", "year", "url"} <= paper.keys() for paper in cited["references"])
    papers = {(paper.title, paper.url) for paper in PAPERS}
    assert papers == {(paper["title"], paper["url"]) for paper in cited["references"]}
    assert all(f"title     = {{{title}}}" in README for title, _ in papers)
