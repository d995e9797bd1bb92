"""Regular files alone are images: a named pipe is left out, or unreadable, and nobody waits for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from castssl.datasets.folder import look_through
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.datasets.regular import open_regular, walk
from castssl.errors import DataError
from tests.datasets.image_files import write

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Images, a pipe, and links."""
    write(tmp_path, ["a/1.png", "b/2.png"])
    os.mkfifo(tmp_path / "a" / "x.png")
    os.symlink(tmp_path / "a" / "x.png", tmp_path / "b" / "link.png")
    os.symlink(tmp_path / "a" / "1.png", tmp_path / "b" / "good.png")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "b" / "nothing.png")
    return tmp_path


def test_pipes_in_a_folder_are_left_out_and_told(place: Path) -> None:
    found = look_through(place)
    assert found.names == ["a/1.png", "b/2.png", "b/good.png", "b/nothing.png"]
    assert found.left_out == ("left out 2 special files (a pipe, a socket, a device): a/x.png, b/link.png",)


def test_a_pipe_of_a_list_is_unreadable(place: Path) -> None:
    (place / "list.csv").write_text("path,class\na/1.png,x\na/x.png,x\nb/2.png,y\n")
    images = open_images(f"csv:{place / 'list.csv'}?labels=class")
    assert isinstance(images, Images)
    sample = images.fetch(1)
    ((name, reason),) = ((bad.name, bad.reason) for bad in sample.bad)
    assert name.endswith("a/x.png")
    assert "is a pipe, a socket or a device, expected a regular file" in reason


def test_what_is_opened(place: Path) -> None:
    with open_regular(place / "b" / "good.png") as file:
        assert file.read(4) == b"\x89PNG"
    for path in (place / "b" / "link.png", "/dev/zero"):
        with pytest.raises(DataError, match="is a pipe, a socket or a device"):
            open_regular(path)
    with pytest.raises(IsADirectoryError):
        open_regular(place)
    with pytest.raises(FileNotFoundError):
        open_regular(place / "b" / "nothing.png")


def test_it_walks_as_python_does_and_looks_up_links_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ["a/1.png", "a/c/3.png", "a/d/4.png", "b/2.png"])
    (tmp_path / "e.txt").touch()
    os.symlink(tmp_path / "b", tmp_path / "a" / "c" / "b")
    expected = [tuple(map(sorted, part[1:])) for part in os.walk(tmp_path, followlinks=True)]
    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, lambda *args, **options: pytest.fail("a file was looked up"))
    errors: list[OSError] = []
    found = [(sorted(folders), sorted(files)) for _, folders, files, _ in walk(tmp_path, errors.append)]
    assert sorted(found) == sorted((a, b) for a, b in expected)
    assert [*walk(tmp_path / "none", errors.append)] == []
    assert isinstance(errors[0], FileNotFoundError)
