"""The messages of docs/troubleshooting.md are those of the code."""

from __future__ import annotations

import re
from functools import cache

import pytest

from tests.house import source

GAP = "…"
"""What differs from one occurrence of a message to the next."""
PAGE = (source.ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"(?m)^\| `([^`]+)` \|", PAGE)


def joined(program: str) -> str:
    """A program whose literals in a row, which Python joins, are one literal in one line."""
    return re.sub(r'"\s+f?"', "", program)


@cache
def programs() -> str:
    """The package and the recipes."""
    paths = source.python("castssl", "recipes")
    return "\n".join(joined((source.ROOT / path).read_text(encoding="utf-8")) for path in paths)


def occurs(message: str, program: str) -> bool:
    """True if the constant parts of a message stand in this order in one line."""
    return re.search(".*".join(re.escape(part) for part in message.split(GAP)), program) is not None


def test_there_are_messages_of_each_kind() -> None:
    assert len(MESSAGES) == len(set(MESSAGES)) > 40
    assert PAGE.count("\n| message | cause | next step |\n") == PAGE.count("\n## ")


@pytest.mark.parametrize("message", MESSAGES)
def test_the_message_is_in_the_code(message: str) -> None:
    assert all(len(part) > 3 for part in message.split(GAP) if part), "too short to be found by"
    assert occurs(message, programs())


def test_a_changed_message_is_not_found() -> None:
    lines = [
        "raise E(",
        '    f"another process writes in {folder}"',
        '    f" ({holder}); end it"',
        ")",
        'x = "other"',
    ]
    program = joined("\n".join(lines))
    assert occurs("another process writes in … (…); end it", program)
    assert not occurs("another process runs in … (…)", program)
    assert not occurs("another process writes in … other", program)
