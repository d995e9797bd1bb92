"""The exam as a whole, on small generated pictures with labels and masks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from castssl.data.images import open_images
from castssl.evaluation.exam import Exam, table
from castssl.models.create import create
from castssl.superpixels.grid import Grid


@pytest.fixture(scope="module")
def exam(pictures: Path) -> Exam:
    data = f"folder:{pictures}"
    return Exam.on(data, open_images(data), Grid(8), 32, batch_size=8)


def test_marks_are_shares_and_repeat_exactly(exam: Exam) -> None:
    torch.manual_seed(0)
    encoder = create("nano", image_size=32, sizes=(16, 8, 4))
    marks = exam.sit(encoder, "cpu")
    assert set(marks) == {"match", "knn", "object_iou_16", "object_iou_8", "object_iou_4", "object_iou_2"}
    assert all(0 <= mark <= 1 for mark in marks.values())
    assert exam.sit(encoder, "cpu") == marks
    assert encoder.training


def test_broken_images_do_not_end_the_exam_and_are_known_to_who_trains(
    pictures: Path, tmp_path: Path
) -> None:
    root = tmp_path / "spoilt"
    shutil.copytree(pictures, root)
    broken = [next((root / split).rglob("*.png")) for split in ("train", "val")]
    for path in broken:
        path.write_bytes(b"")
    train = open_images(f"folder:{root}")
    exam = Exam.on(f"folder:{root}", train, Grid(8), 32, batch_size=8)
    assert list(train.bad) == [str(broken[1])]
    encoder = create("nano", image_size=32, sizes=(16, 8, 4))
    assert set(exam.sit(encoder, "cpu")) >= {"match", "knn", "object_iou_16"}
    assert sorted(train.bad) == sorted(map(str, broken))


def test_chance_is_one_in_so_many(exam: Exam) -> None:
    marks = exam.by_chance((16, 8, 4, 2))
    assert marks["knn"] == 1 / 8
    assert marks["match"] == 1 / 8
    # Without merging, the best cell of a grid covers what any encoder's first stage covers.
    encoder = create("nano", image_size=32, sizes=(16, 8, 4))
    assert marks["object_iou_16"] == pytest.approx(exam.sit(encoder, "cpu")["object_iou_16"])


def test_without_held_out_images_there_are_no_marks(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    data = f"folder:{tmp_path}"
    with pytest.warns(UserWarning, match="no examination on held-out images"):
        exam = Exam.on(data, open_images(data), Grid(8), 32)
    encoder = create("nano", image_size=32, sizes=(16, 8, 4))
    assert exam.sit(encoder, "cpu") == exam.by_chance(encoder.sizes) == {}


def test_the_table_shows_percent_and_gaps() -> None:
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(trained={"knn": 0.4567, "match": 0.1}, chance={"knn": 0.125}))
    text = console.export_text()
    assert "45.7" in text
    assert "12.5" in text
    assert "-" in next(line for line in text.splitlines() if "match" in line)
