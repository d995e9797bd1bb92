"""``castssl parts``: its rows, its footnotes, its JSON, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import castssl
from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.datasets.part_sets import open_parts
from castssl.evaluation.parts import score_parts
from castssl.registry import build_segmenter
from tests.datasets.test_part_sets import written

MERGE = "merge:sizes=(6,3),superpixels=grid"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = castssl.create("nano", image_size=32, sizes=(16, 8, 4, 2), superpixels="grid:cell=8")
    return save_encoder(encoder, tmp_path_factory.mktemp("run") / "encoder.safetensors")


def lines(text: str, begin: str) -> list[list[str]]:
    """The cells of lines that begin so."""
    return [line.split() for line in text.splitlines() if line.strip().startswith(begin)]


def test_rows_of_several_segmenters_and_their_json(
    image_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo, out = "demo:size=32,per_class=6,surroundings=fixed", tmp_path / "scores.json"
    specs = [f"cast:{weights},image_size=32", MERGE]
    assert main(["parts", *specs, "--data", demo, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    content: dict[str, Any] = json.loads(out.read_text())
    assert list(content["segmenters"]) == specs
    found = score_parts({spec: build_segmenter(spec) for spec in specs}, open_parts(demo), recall=True)
    number = 0
    for spec, scored in found.items():
        stored = content["segmenters"][spec]
        assert stored["unscored"] == {}
        for row, kept in zip(scored.rows, stored["rows"], strict=True):
            number += 1
            assert kept["levels"] == row.levels._asdict()
            assert kept["objects"]["region_iou"] == pytest.approx(row.objects.region_iou)
            assert kept["parts"]["recall"] == pytest.approx(row.parts.recall)
            assert row.untrained == (number == 1)
            title = f"{number}{'*' if row.untrained else ''}"
            assert f"{title} {spec}: 8 images" in shown
            (cells,) = lines(shown, f"{title} objects")
            assert cells[-8:-6] == [str(row.levels.objects), f"{row.objects.segments:.1f}"]
            assert cells[-6] == f"{100 * row.objects.region_iou:.2f}"
            assert cells[-1] == f"{100 * row.objects.recall:.2f}"
    assert number == 3
    assert "* objects from a level whose pooling was never trained" in shown
    assert "shares most pixels with" in shown
    sheep = open_parts(demo).names.objects.index("sheep") + 1
    (cells,) = lines(shown, "sheep")
    assert cells[1] == "1"
    iou = [row.objects.class_region_iou[sheep] for scored in found.values() for row in scored.rows]
    assert cells[2:] == [f"{100 * value:.2f}" for value in iou]


def test_partimagenet_with_an_image_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    (broken,) = (tmp_path / "images").rglob("n02701002_2.JPEG")
    broken.write_bytes(b"no image")
    out = tmp_path / "scores.json"
    flags = ["--data", str(tmp_path), "--image-size", "32", "--out", str(out)]
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert main(["parts", MERGE, *flags]) == 0
    shown, told = capsys.readouterr()
    assert f"{MERGE}: 1 of 3 images could not be scored" in told
    assert "n02701002/n02701002_2.JPEG: cannot read the image" in told
    assert "install faster-coco-eval" in told
    assert f"1 {MERGE}: 2 images" in shown
    assert lines(shown, "1 objects")[0][-1] == "n/a"
    assert lines(shown, "Car") == [["Car", "0", "n/a"]]
    assert lines(shown, "mean of things") == [["mean", "of", "things", "n/a"]]
    (bird,), (animals,) = lines(shown, "Bird"), lines(shown, "mean of animals")
    assert (bird[1], bird[2]) == ("1", animals[-1])
    content = json.loads(out.read_text())
    assert (content["image_size"], content["images"], content["names"]) == (32, 3, None)
    stored = content["segmenters"][MERGE]
    assert list(stored["unscored"]) == ["n02701002/n02701002_2.JPEG"]
    assert stored["rows"][0]["objects"]["class_images"][4] == 1


def test_names_of_an_encoder_are_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    asked: list[Any] = []

    class Named:
        def __init__(self, encoder: object, objects: object, parts: object, *, style: str) -> None:
            asked.append((encoder, objects, style))

        def __call__(self, image: Any, objects: Any, parts: Any) -> tuple[Any, Any]:
            return np.zeros(objects.shape, np.int64), np.zeros(parts.shape, np.int64)

    monkeypatch.setattr("castssl.evaluation.naming.Naming", Named)
    flags = ["--data", str(tmp_path), "--image-size", "0", "--names", "nano", "--style", "paper"]
    assert main(["parts", MERGE, *flags]) == 0
    ((encoder, objects, style),) = asked
    assert (encoder.config.name, objects, style) == (
        "cast_nano",
        open_parts(str(tmp_path)).names.objects,
        "paper",
    )
    shown = capsys.readouterr().out
    assert "names by nano, paper" in shown
    # All is background: the third image is right, the others have as much as their background.
    shares = [np.mean(open_parts(str(tmp_path)).read(index)[1].objects == 0) for index in range(3)]
    expected = (shares[0] / 2 + shares[1] / 2 + shares[2]) / 3
    (cells,) = lines(shown, "1 objects")
    assert cells[-6] == f"{100 * expected:.2f}"


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(written(tmp_path))]
    cases = [
        (["--image-size", "-3"], "--image-size -3: expected pixels"),
        (["--split", "test"], "no annotations"),
        (["--objects-level", "7"], "has 2 levels, 0 (finest) to 1"),
        (["--names", "nano"], "cannot read class names"),
    ]
    for flags, message in cases:
        assert main(["parts", MERGE, *data, *flags]) == 1
        assert message in capsys.readouterr().err
    for path in (tmp_path / "images").rglob("*.JPEG"):
        Image.new("RGB", (3, 3)).save(path)
    assert main(["parts", MERGE, *data]) == 1
    told = capsys.readouterr().err
    assert "3 of 3 images could not be scored" in told
    assert "40 x 30 pixels, expected 3 x 3" in told
