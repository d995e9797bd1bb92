"""The spine: the files from an image on disk to a loss and a checkpoint, as CONTRIBUTING.md lists them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.house import source

TITLE = "## The spine"
MOST = 5500
"""Lines of all files of the spine together."""


def spine(document: str) -> list[Path]:
    """The files in the code spans of the section on the spine, in reading order."""
    section = document.partition(f"\n{TITLE}\n")[2].partition("\n## ")[0]
    return [Path(name) for name in re.findall(r"`(castssl/[\w/]+\.py)`", section)]


def missing(paths: Iterable[Path]) -> list[str]:
    """The listed files that are not in the project."""
    return [str(path) for path in paths if path not in source.files()]


def lines(paths: Iterable[Path]) -> int:
    """The lines of the listed files together."""
    return sum(len((source.ROOT / path).read_text(encoding="utf-8").splitlines()) for path in paths)


CONTRIBUTING = (source.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_files_of_the_spine_exist() -> None:
    paths = spine(CONTRIBUTING)
    assert len(paths) > 25, f"{TITLE!r} of CONTRIBUTING.md lists {len(paths)} files"
    assert not missing(paths), f"the spine in CONTRIBUTING.md lists files that do not exist: {missing(paths)}"


def test_the_spine_lists_each_file_once() -> None:
    paths = spine(CONTRIBUTING)
    assert len(set(paths)) == len(paths)


def test_the_spine_is_short() -> None:
    total = lines(spine(CONTRIBUTING))
    assert total <= MOST, f"the spine has {total} lines, at most {MOST}: shorten one of its files"


ROOMS = ("datasets", "data", "superpixels", "tokens", "pooling", "models", "objectives", "training")
"""The rooms between an image and a checkpoint."""


@pytest.mark.parametrize("room", ROOMS)
def test_the_spine_has_a_file_of_each_room(room: str) -> None:
    assert any(path.parts[1] == room for path in spine(CONTRIBUTING)), f"the spine lists no file of {room}"


def test_a_missing_file_is_found() -> None:
    changed = CONTRIBUTING.replace("`castssl/types.py`", "`castssl/nothing.py`")
    assert missing(spine(changed)) == ["castssl/nothing.py"]


def test_added_lines_are_counted() -> None:
    paths = spine(CONTRIBUTING)
    assert lines([*paths, paths[0]]) > lines(paths)
