"""The messages of docs/troubleshooting.md are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.house import source

GAP = "…"
"""What differs from one occurrence of a message to the next."""
PAGE = (source.ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"(?m)^\| `([^`]+)` \|", PAGE)


def templates(tree: ast.AST) -> Iterator[str]:
    """The texts in a program, with a gap for each value that they format."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def texts() -> str:
    """Those of the package and the recipes, a line each."""
    found = (text for path in source.python("castssl", "recipes") for text in templates(source.tree(path)))
    return "\n".join(text.replace("\n", " ") for text in found)


def occurs(message: str, texts: str) -> bool:
    """True if the constant parts of a message stand in this order in one text."""
    return re.search(".*".join(re.escape(part) for part in message.split(GAP)), texts) is not None


def test_there_are_messages_of_each_kind() -> None:
    assert len(MESSAGES) == len(set(MESSAGES)) > 40
    assert PAGE.count("\n| message | cause | next step |\n") == PAGE.count("\n## ")


@pytest.mark.parametrize("message", MESSAGES)
def test_the_message_is_in_the_code(message: str) -> None:
    assert all(len(part) > 3 for part in message.split(GAP) if part), "too short to be found by"
    assert occurs(message, texts())


def test_a_changed_message_is_not_found() -> None:
    code = ast.parse('raise E(f"another process trains in {folder}"\n" ({holder}); end it")\nx = "other"')
    lines = "\n".join(templates(code))
    assert occurs("another process trains in … ({holder}); end it", lines)
    assert not occurs("another process runs in … ({holder})", lines)
    assert not occurs("another process trains in … other", lines)
