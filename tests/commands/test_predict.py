"""What ``castssl predict`` prints and draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.checkpoints.classifier import save_classifier
from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.tree_kl import TreeKL
from tests.checkpoints import checkpoints

TREE = LabelTree((2, 3), ((0, 0, 1),), (("bird", "cat"), ("[blackbird]", "gull", "lion")))
MADE: dict[str, Any] = {"image_size": 32, "sizes": (16, 8, 4)}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A run's folder whose classifier says bird 0.8, lion 0.6, whatever it sees."""
    torch.manual_seed(0)
    objective = TreeKL(create("nano", superpixels="grid:cell=8", **MADE), TREE)
    heads: Any = objective.model.level_heads
    for head, shares in zip(heads, ((0.8, 0.2), (0.3, 0.1, 0.6)), strict=True):
        head.weight.data.mul_(1e-6)
        head.bias.data.copy_(torch.tensor(shares).log())
    folder = tmp_path / "run"
    folder.mkdir()
    save_classifier(objective, folder / "encoder.safetensors", spec="tree-kl", labels=TREE)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def shown(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    """What the command prints, with single spaces, and its complaints."""
    assert main(["predict", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    return "\n".join(" ".join(line.split()) for line in out.splitlines()), err


def test_the_path_and_its_contradiction(
    weights: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _ = shown(capsys, photo, "--weights", weights)
    assert "photo.png 0 bird 0.800\n1 lion 0.600 contradicts bird: it is in cat\n" in text
    text, _ = shown(capsys, photo, "--weights", weights, "--min-confidence", 0)
    assert "contradicts" in text
    assert "\n= bird\n" in text
    text, _ = shown(capsys, photo, "--weights", weights, "--min-confidence", 0.9)
    assert (
        "0 bird 0.800 below 0.9\n1 lion 0.600 contradicts bird: it is in cat; below 0.9\n= no answer" in text
    )


def test_json(weights: Path, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = shown(capsys, photo, "--weights", weights, "--json", "--min-confidence", 0.5)
    (found,) = json.loads(text)
    assert (found["consistent"], found["answer"], found["image"]) == (False, ["bird"], photo)
    assert [(one["level"], one["class"], one["index"]) for one in found["path"]] == [
        (0, "bird", 0),
        (1, "lion", 2),
    ]
    assert found["path"][1]["probability"] == pytest.approx(0.6, abs=1e-3)


def test_a_folder_is_the_images_in_it(
    weights: Path, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flat" / "cat").mkdir(parents=True)
    Path(photo).rename(tmp_path / "flat" / "cat" / "1.png")
    out, _ = shown(capsys, tmp_path / "flat", "--weights", weights, "--json")
    assert [one["image"] for one in json.loads(out)] == [str(tmp_path / "flat" / "cat" / "1.png")]


def test_the_image_has_a_row_an_image(
    weights: Path, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    again = tmp_path / "other" / "photo.png"
    Image.open(photo).save(again)
    out = tmp_path / "new" / "paths.png"
    shown(capsys, photo, "--weights", weights, "--out", out)
    one = Image.open(out)
    text, said = shown(capsys, photo, again, "--weights", weights, "--out", out, "--overwrite")
    two = Image.open(out)
    assert f"the picture: {out}" in said
    assert str(again)[:30] in text, "files of the same name are told apart"
    assert (two.width, one.width > 3 * 224) == (one.width, True)
    assert two.height > 1.9 * one.height
    _, said = shown(capsys, photo, "--weights", weights, "--out", Path(photo) / "x.png", code=1)
    assert "photo.png is a file, expected a folder for x.png" in said


def test_what_cannot_be_done(
    weights: Path, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, said = shown(capsys, tmp_path / "none.png", photo, "--weights", weights, code=1)
    assert "cannot read the image" in said
    assert "photo.png 0 bird" in text, "the others are done all the same"
    _, said = shown(capsys, photo, "--weights", tmp_path / "nowhere", code=1)
    assert "no weights at" in said
    save_encoder(create("nano", **MADE), tmp_path / "bare.safetensors")
    _, said = shown(capsys, photo, "--weights", tmp_path / "bare.safetensors", code=1)
    assert "encoder without a classifier of images; recipes/deit_in1k.py, hcast.py" in said


def test_published_weights_and_the_tree_of_the_data(
    photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": checkpoints.state("cast_deit_hier", 3, 2)}, tmp_path / "in.pth")
    given = (photo, "--weights", tmp_path / "in.pth", "--superpixels", "grid:cell=8")
    text, _ = shown(capsys, *given)
    assert "the weights hold no label tree" in text
    for name in ("bird/blackbird", "bird/gull", "cat/lion"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        Image.open(photo).save(tmp_path / "data" / "train" / name / "a.png")
    text, _ = shown(capsys, *given, "--tree", f"folder:{tmp_path / 'data'}")
    assert "no label tree" not in text
    assert "0 bird" in text or "0 cat" in text
