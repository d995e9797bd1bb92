"""What ``castssl look`` writes, lists and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.models.create import create
from tests.checkpoints import checkpoints
from tests.visualization.test_page import stored


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(0)
    encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=32")
    return str(save_encoder(encoder, tmp_path / "run" / "encoder.safetensors").parent)


def test_an_unreadable_image_costs_nothing_else(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = ["a<b>.png", "broken.png", "c.png"]
    for name in names[::2]:
        Image.effect_noise((40, 30), 80).save(tmp_path / name)
    images = [str(tmp_path / name) for name in names]
    page, models = tmp_path / "page.html", [weights, "merge:superpixels=grid:cell=16"]
    assert main(["look", *images, "--weights", *models, "--html", str(page)]) == 1
    printed = capsys.readouterr()
    assert "broken.png" in printed.err
    assert "no classes are shown" in printed.err
    assert "2 of 3 images" in printed.out
    text = page.read_text()
    assert [len(image["models"]) for image in stored(text)] == [2, 2]
    assert f'"models":["run","{models[1]}"],"images":["a\\u003cb\\u003e.png","c.png"]' in text
    assert str(tmp_path) not in text
    assert main(["look", images[1], "--weights", "merge", "--html", str(page), "--overwrite"]) == 1
    assert "the page is not written" in capsys.readouterr().err
    assert page.read_text() == text


def test_a_published_classifier_gets_the_names_of_its_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": checkpoints.state("cast_deit_hier", 3, 2)}, tmp_path / "published.pth")
    for name in ("bird/blackbird", "bird/gull", "cat/lion"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        Image.effect_noise((40, 30), 80).save(tmp_path / "data" / "train" / name / "a.png")
    image, page = str(tmp_path / "data" / "train" / "cat" / "lion" / "a.png"), tmp_path / "page.html"
    flags = [
        "--weights",
        str(tmp_path / "published.pth"),
        "--superpixels",
        "grid:cell=16",
        "--image-size",
        "64",
    ]
    assert main(["look", image, *flags, "--tree", f"folder:{tmp_path / 'data'}", "--html", str(page)]) == 0
    (model,) = stored(page.read_text())[0]["models"]
    coarse, fine = model["classes"]
    assert coarse["name"] in ("bird", "cat")
    assert fine["name"] in ("blackbird", "gull", "lion")
    assert len(fine["moved"]) == len(model["levels"][0]["ids"])
    assert "no classes" not in capsys.readouterr().err


def test_more_models_than_three_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["look", "a.png", "--weights", *["merge"] * 4, "--html", str(page)]) == 1
    assert "got 4 models, expected at most 3" in capsys.readouterr().err
