from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from PIL import Image

from castssl.cli import main
from castssl.commands.arguments import picture, save_picture
from castssl.errors import ConfigError


def test_an_image_s_path() -> None:
    assert picture("some/where.PNG") == Path("some/where.PNG")


@pytest.mark.parametrize("name", ["", "picture", "picture.txt", "picture.png/"])
def test_what_no_image_can_be_written_to(name: str, tmp_path: Path) -> None:
    (tmp_path / "picture.png").mkdir()
    with pytest.raises(ArgumentTypeError, match=r"such as picture\.png"):
        picture(str(tmp_path / name))


@pytest.mark.parametrize("words", [["predict", "x.png", "--weights", "w"], ["superpixels", "demo"]])
def test_it_is_told_before_anything_is_computed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", "picture"])
    assert stop.value.code == 2
    assert "expected a file that ends in .png" in capsys.readouterr().err


def test_a_format_without_room_for_a_picture_is_refused(tmp_path: Path) -> None:
    tall = Image.new("L", (1, 16384))
    with pytest.raises(ConfigError, match=r"a webp file at most 16383 a side.*\.png"):
        save_picture(tall, tmp_path / "x.webp")
    save_picture(tall, tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("command", ["adapt", "attention", "evaluate", "features", "neighbors"])
@pytest.mark.parametrize(("flag", "value", "least"), [("--batch-size", "0", 1), ("--workers", "-1", 0)])
def test_batches_of_no_image_and_fewer_than_no_process_are_refused(
    command: str, flag: str, value: str, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, f"{flag}={value}"])
    assert stop.value.code == 2
    assert f"{flag}: got {value}, expected a whole number from {least}" in capsys.readouterr().err
