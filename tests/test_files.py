from __future__ import annotations

from pathlib import Path

import pytest

from castssl.errors import CastError
from castssl.files import atomic_write, remove


def _write(path: Path, text: str, error: Exception | KeyboardInterrupt | None = None) -> None:
    with atomic_write(path, "map") as aside:
        aside.write_text(text)
        if error is not None:
            raise error


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "name.txt"
    _write(path, "one")
    with pytest.raises(KeyboardInterrupt):
        _write(path, "tw", KeyboardInterrupt())
    assert path.read_text() == "one"
    assert [entry.name for entry in path.parent.iterdir()] == ["name.txt"]


def test_the_systems_own_words_are_found_behind_other_errors(tmp_path: Path) -> None:
    hidden = RuntimeError("unexpected position")
    hidden.__context__ = OSError(28, "No space left on device")
    with pytest.raises(CastError, match=r"the map .*name \(No space left on device\); earlier files"):
        _write(tmp_path / "name", "one", hidden)


def test_what_the_system_did_not_refuse_passes_through(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bug"):
        _write(tmp_path / "name", "one", ValueError("a bug"))


def test_files_links_and_folders_are_removed_and_nothing_else(tmp_path: Path) -> None:
    folder, file, link = tmp_path / "folder", tmp_path / "file", tmp_path / "link"
    (folder / "inner").mkdir(parents=True)
    file.touch()
    link.symlink_to(folder)
    remove(link)
    assert (folder / "inner").is_dir()
    for path in (folder, file, tmp_path / "none"):
        remove(path)
    assert not list(tmp_path.iterdir())
