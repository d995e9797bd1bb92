"""``castssl adapt``: the table and the files of test-time adaptation."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import castssl
from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.evaluation.adaptation import COLUMNS
from castssl.inference.adapt import FILES


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = castssl.create("nano", image_size=32, sizes=(16, 8, 4, 2), superpixels="grid:cell=8")
    return save_encoder(encoder, tmp_path_factory.mktemp("run") / "encoder.safetensors")


def test_the_table_and_the_files_agree(
    image_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "boat"
    flags = ["adapt", str(image_folder), "--weights", str(weights), "--workers", "0", "--device", "cpu"]
    assert main([*flags, "--class", name, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "random step" in shown
    assert "before" in shown
    results = json.loads((tmp_path / "out" / FILES[0]).read_text(), parse_constant=pytest.fail)
    assert results["gains"]["adapted - before"]["80% or more"] == [0, None, None]
    with open(tmp_path / "out" / FILES[1], newline="") as file:
        rows = list(csv.DictReader(file))
    images = sorted(path.name for path in (image_folder / "val").rglob(f"{name}/*"))
    assert [Path(row["path"]).name for row in rows] == images
    for column in COLUMNS:
        iou = [float(row[f"region IoU {column}"]) for row in rows]
        assert sum(iou) / len(iou) == pytest.approx(results[column]["region_iou_2"], abs=1e-6)
        right = [row[f"prediction {column}"] == name for row in rows]
        assert sum(right) / len(right) == pytest.approx(results[column]["top1"])
        assert {row[f"prediction {column}"] for row in rows} <= {name, f"not {name}"}
    count, mean, _ = results["gains"]["adapted - before"]["all"]
    difference = results["adapted"]["region_iou_2"] - results["before"]["region_iou_2"]
    assert (count, mean) == (len(rows), pytest.approx(difference, abs=1e-6))
    assert Image.open(tmp_path / "out" / FILES[2]).width > 500
    assert "nan" not in shown
    assert "NaN" not in (tmp_path / "out" / FILES[0]).read_text()
    assert results["gains"]["adapted - before"]["80% or more"] == [0, None, None]


def test_a_folder_without_splits_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    assert main(["adapt", str(tmp_path), "--weights", str(weights)]) == 1
    shown = capsys.readouterr().err
    assert "expected images in train/CLASS and val/CLASS" in shown
    assert "--val" not in shown


def test_a_file_in_place_of_the_folder_is_reported(
    image_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    flags = ["--weights", str(weights), "--workers", "0", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["adapt", str(image_folder), *flags]) == 1
    assert "is a file, expected a folder for results.json" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--class", "unicorn"], "no such class; it has"),
        (["--temperature", "0"], "a positive temperature"),
        (["--rate", "nan"], "a finite rate"),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str],
    message: str,
    image_folder: Path,
    weights: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["adapt", str(image_folder), "--weights", str(weights), "--workers", "0", *flags]) == 1
    assert message in capsys.readouterr().err
