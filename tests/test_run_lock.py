"""The lock of a folder: other programs' files of that name, and what a stranger puts in its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from castssl.run_lock import LOCK, hold, in_use, of_castssl


def test_a_lock_of_castssl_is_told_from_others(tmp_path: Path) -> None:
    assert not of_castssl(tmp_path)
    hold(tmp_path).close()
    assert of_castssl(tmp_path)
    (tmp_path / LOCK).write_text("")  # A run that was killed before its first word.
    assert of_castssl(tmp_path)
    (tmp_path / LOCK).write_text('{"lock": "of my tool"}')
    assert not of_castssl(tmp_path)


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine")
    (tmp_path / LOCK).symlink_to(other)
    with pytest.raises(OSError, match="it is a link"):
        hold(tmp_path)
    assert other.read_text() == "mine"
    assert not of_castssl(tmp_path)
    assert not in_use(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="this system has no pipes with a name")
@pytest.mark.timeout(20)
def test_nobody_waits_for_a_pipe_in_its_place(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    assert not in_use(tmp_path)
    assert not of_castssl(tmp_path)
    with pytest.raises(OSError, match="not a regular file"):
        hold(tmp_path)
