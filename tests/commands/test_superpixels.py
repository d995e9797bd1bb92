"""``castssl superpixels``: the table, the image, masks, and what is broken or wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castssl.cli import main
from castssl.visualization.photographs import photographs

FAST = ["--image-size", "64", "--rounds", "1"]
SEEDS = "seeds:bins=5,iterations=2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photographs; ``masks`` has true regions of two: the left and the right half."""
    for part, (name, image) in zip(("a", "a", "b"), photographs(), strict=False):
        for top in ("images", "masks"):
            (tmp_path / top / part).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "images" / part / f"{name}.jpg")
        if part == "a":
            values = np.zeros((image.height, image.width), np.uint8)
            values[:, image.width // 2 :] = 200
            Image.fromarray(values).save(tmp_path / "masks" / part / f"{name}.png")
    return tmp_path


def rows(text: str) -> dict[str, list[str]]:
    """The table's rows by their first word."""
    lines = [line.split() for line in text.splitlines()]
    return {words[0]: words[1:] for words in lines if len(words) in (2, 9)}


def test_photographs_have_numbers_and_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "compared.png"
    arguments = ["photographs", *FAST, "--backends", "grid:cell=16", "seeds", "--segments", "64"]
    assert main(["superpixels", *arguments, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "4 images of 64 x 64 pixels" in said
    table = rows(said)
    assert table["grid:cell=16"][1:3] == ["-", "16.0"]
    assert table["seeds"][1:3] == ["64", "64.0"]
    assert table["seeds"][5:] == ["-", "-", "-"]
    assert "merged" not in said
    with Image.open(out) as image:
        assert image.width > 3 * 224
        assert image.height > 4 * 224


def test_segments_go_to_whoever_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backends", "grid", "seeds", "seeds:count=36", "--segments", "64"]
    assert main(["superpixels", "photographs", *FAST, *arguments]) == 0
    counts = {name: cells[1:3] for name, cells in rows(capsys.readouterr().out).items()}
    assert counts["grid"] == ["-", "64.0"]
    assert counts["seeds"] == ["64", "64.0"]
    assert counts["seeds:count=36"][0] == "36"


def test_true_regions_are_found_beside_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*FAST, "--backends", "grid:cell=8", "--masks", str(folder / "masks")]
    assert main(["superpixels", str(folder / "images"), *arguments]) == 0
    said = capsys.readouterr().out
    assert "3 images" in said
    # The border lies in the middle, where a border of the grid is.
    assert [float(cell) for cell in rows(said)["grid:cell=8"][-3:]] == pytest.approx([1, 0, 1], abs=0.04)
    merged = [words[1:] for words in map(str.split, said.splitlines()) if len(words) == 5]
    assert [words[0] for words in merged] == ["color", "color+place", "neighbors", "random"]
    assert all(0 < float(share) <= 100 for words in merged for share in words[1:])
    one = folder / "images" / "a" / "astronaut.jpg"
    flat = ["--masks", str(folder / "masks" / "a")]
    assert main(["superpixels", str(one), *FAST, "--backends", "grid:cell=8", *flat]) == 0
    assert rows(capsys.readouterr().out)["grid:cell=8"][-1] != "-"


def test_the_demo_knows_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CASTSSL_CACHE", str(tmp_path))
    arguments = ["--image-size", "32", "--rounds", "1", "--limit", "5", "--backends", "grid:cell=4"]
    assert main(["superpixels", "demo", *arguments]) == 0
    said = capsys.readouterr().out
    assert "5 images of 32 x 32 pixels" in said
    recall, undersegmentation, accuracy = map(float, rows(said)["grid:cell=4"][-3:])
    assert 0 < undersegmentation < 0.5 < accuracy < 1
    assert recall > 0.5


def test_a_broken_backend_is_shown_as_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "compared.png"
    arguments = ["--backends", "nosuch", "seeds:bin=3", SEEDS, "--out", str(out)]
    assert main(["superpixels", "photographs", *FAST, *arguments]) == 1
    said = capsys.readouterr().out
    assert rows(said)["nosuch"] == ["broken"]
    assert "nosuch is broken: UnknownPlugin" in said
    assert "unknown option 'bin'" in said
    assert out.is_file()


def test_what_cannot_be_read_is_an_error_that_names_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*arguments: str) -> str:
        assert main(["superpixels", *arguments, *FAST, "--backends", "grid"]) == 1
        return capsys.readouterr().err

    assert "nosuch.jpg" in error(str(folder / "nosuch.jpg"))
    empty = folder / "empty"
    empty.mkdir()
    assert "no images below" in error(str(empty))
    Image.new("L", (5, 5)).save(folder / "masks" / "a" / "astronaut.png")
    masks = str(folder / "masks")
    assert "the mask has 5 x 5 pixels, expected 256 x 256" in error(str(folder / "images"), "--masks", masks)
    with pytest.raises(SystemExit):
        main(["superpixels"])
    assert main(["superpixels", "photographs", "--segments", "0"]) == 1
    assert "--segments must be at least 1, got 0" in capsys.readouterr().err
    assert "there is no such folder" in error(str(folder / "images"), "--masks", str(folder / "nomasks"))
