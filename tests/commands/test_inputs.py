"""Folders that stand for their images on a command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from castssl.cli import main
from castssl.commands.inputs import find_images
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError

MERGE = "merge:superpixels=grid:cell=8,sizes=(8,4)"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Images of the same names in two classes, and a text."""
    for name in ("dog/1.png", "cat/1.png", "cat/2.jpg", "top.png"):
        (tmp_path / "flat" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 24), 60).convert("RGB").save(tmp_path / "flat" / name)
    (tmp_path / "flat" / "notes.txt").write_text("no image")
    return tmp_path / "flat"


def test_a_folder_has_the_images_of_features_in_their_order(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.png").touch()
    found = find_images([tmp_path / "own.png", flat])
    (flat / "top.png").rename(tmp_path / "top.png")
    images = open_images(f"folder:{flat}")
    assert isinstance(images, Images)
    names = [images.name(row) for row in range(len(images))]
    assert found.paths == [tmp_path / "own.png", *(flat / name for name in names), flat / "top.png"]
    assert list(found.outputs.values()) == ["own", "cat/1", "cat/2", "dog/1", "top"]
    assert [found.stored[path] for path in found.paths[1:]] == [
        "cat/1.png",
        "cat/2.jpg",
        "dog/1.png",
        "top.png",
    ]
    assert "left out 1 file" in capsys.readouterr().err


def test_what_lies_in_the_folder_of_the_outputs_is_no_input(flat: Path) -> None:
    assert len(find_images([flat], flat / "cat").paths) == 2
    assert len(find_images([flat], flat / "new").paths) == 4
    assert len(find_images([flat], flat).paths) == 4


def test_outputs_keep_the_sub_folders(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["segment", str(flat), "--segmenter", MERGE, "--out", str(out)]
    assert main(command) == 0
    assert "4 of 4 images segmented" in capsys.readouterr().out
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert written == {f"{name}-stage{k}.png" for name in ("cat/1", "cat/2", "dog/1", "top") for k in (0, 1)}
    assert main(command) == 1
    assert "exist and would be replaced" in capsys.readouterr().err
    assert (
        main(["segment", str(flat / "cat"), str(flat / "dog"), *command[2:4], "--out", str(tmp_path / "a")])
        == 1
    )
    assert "two outputs would have the same path" in capsys.readouterr().err


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        find_images([tmp_path])
