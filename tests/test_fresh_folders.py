from __future__ import annotations

from pathlib import Path

import pytest

from castssl import fresh_folders


def make(folder: Path) -> Path:
    fresh_folders.make(folder, written=("config.json", "log.jsonl", ".lock"), empty=["log.jsonl"])
    for name in ("config.json", "log.jsonl", ".lock"):
        (folder / name).touch()
    return folder


def test_a_folder_that_was_made_is_removed_with_those_around_it(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "a")
    fresh_folders.discard()
    assert not list(tmp_path.iterdir())
    make(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "other").mkdir()
    fresh_folders.discard()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


@pytest.mark.parametrize(("name", "text"), [("log.jsonl", "{}"), ("once.json", "")])
def test_a_folder_with_more_is_kept_whole(name: str, text: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / name).write_text(text)
    fresh_folders.discard()
    assert {path.name for path in folder.iterdir()} == {"config.json", "log.jsonl", ".lock", name}


def test_a_folder_that_existed_is_kept_whole(tmp_path: Path) -> None:
    make(tmp_path)
    fresh_folders.discard()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(OSError, match="a"):
            fresh_folders.make(folder, written=())
