"""What ``castssl flops`` prints, and which model its flags mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.models.create import create


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints, with single spaces."""
    code = main(["flops", *arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return "\n".join(" ".join(line.split()) for line in out.splitlines())


def test_parts_totals_and_the_papers_figure(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "cast_small")
    for line in (
        "stem 0.912 1,021,488 1,021,488",
        "pooling 0: 196 to 64 0.324 1,777,920 1,777,920",
        "pooling 3: 16 to 8 0.000 1,777,920 0",
        "head of 1000 0.000 385,000 385,000",
        "all 3.117 28,339,480 26,260,504",
        "as published: with class position 28,339,864 26,260,504",
        "cast_small 196 64 32 16 3.12 3.13 3.14 3.4 28,339,864",
    ):
        assert line in text, line


def test_several_sizes_are_several_rows_at_test_time_too(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--sizes", "64", "8", "4", "--sizes", "81", "9", "5"]
    text = shown(capsys, "nano", *sizes)
    assert "stem" not in text, "parts are shown of one model only"
    assert "nano 64 8 4" in text
    assert "nano 81 9 5" in text


def test_superpixels_set_the_first_size(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # OpenCV makes 16 x 16 of 324.
    assert "nano 256 32 16" in shown(capsys, "nano", "--superpixels", "seeds", "--segments", "324")
    assert "nano 49 32 16" in shown(capsys, "nano", "--superpixels", "grid:cell=32")
    encoder = create("nano", image_size=64, sizes=(64, 8, 4, 2), superpixels="grid:cell=8")
    path = save_encoder(encoder, tmp_path / "[/e].safetensors")
    text = shown(capsys, str(path), "--superpixels", "grid:cell=4", "--classes", "7")
    assert "256 8 4" in text
    assert "head of 7 0.000 455 455" in text
    assert "[/e].safetensors" in text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nanno"], "did you mean 'nano'?"),
        (["nanno"], "nor is there a file or folder 'nanno'"),
        (["nano", "--sizes", "64", "32"], "this model has 4 stages"),
        (["nano", "--sizes", "64", "8", "4", "--segments", "324"], "up to 256 superpixels"),
        (["nano", "--superpixels", "grid", "--segments", "9"], "unknown option 'count'"),
        (["timm:resnet10t", "--sizes", "49"], "only a CAST has sizes"),
    ],
)
def test_wrong_wishes_are_one_message(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flops", *arguments]) == 1
    shown = capsys.readouterr()
    assert not shown.out
    assert words in shown.err
