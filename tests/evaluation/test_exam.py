"""The exam as a whole, on small generated pictures with labels and masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from castssl.evaluation.exam import Exam, table
from castssl.models.create import create
from castssl.superpixels.grid import Grid


@pytest.fixture(scope="module")
def exam(pictures: Path) -> Exam:
    data = f"folder:{pictures}"
    return Exam.on(open_images(data), open_images(data, split="val"), Grid(8), 32, batch_size=8)


def test_marks_are_shares_and_repeat_exactly(exam: Exam) -> None:
    torch.manual_seed(0)
    encoder = create("nano", image_size=32, sizes=(16, 8, 4))
    marks = exam.sit(encoder, "cpu")
    measures = ("object_iou", "region_iou", "part_iou")
    assert set(marks) == {"match", "knn", *(f"{name}_{k}" for name in measures for k in (16, 8, 4, 2))}
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
    val = open_images(f"folder:{root}", split="val")
    val.bad = train.bad
    exam = Exam.on(train, val, Grid(8), 32, batch_size=8)
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
    sat = exam.sit(encoder, "cpu")
    assert set(sat) == set(marks)
    for name in ("object_iou_16", "region_iou_16", "part_iou_16"):
        assert marks[name] == pytest.approx(sat[name])
    assert marks["region_iou_16"] > marks["region_iou_2"]
    assert marks["region_iou_16"] > marks["part_iou_16"]


def test_images_of_which_only_coarse_labels_are_known_do_not_vote(pictures: Path) -> None:
    data = f"folder:{pictures}"
    images = open_images(data)
    assert isinstance(images, Images)
    encoder = create("nano", image_size=32, sizes=(16, 8, 4))
    held_out = open_images(data, split="val")
    some, none = (
        Exam.on(images.hide_fine(share), held_out, Grid(8), 32).sit(encoder, "cpu") for share in (0.5, 1)
    )
    assert "knn" in some
    assert "knn" not in none


def test_other_masks_may_be_given(pictures: Path, tmp_path: Path) -> None:
    """As PartImageNet's, which know some of the training images and no held-out one."""
    shape = {"size": [32, 32], "counts": [0, 512, 512]}
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "0005.png", "width": 32, "height": 32}],
        "categories": [{"id": 0, "name": "left"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "segmentation": shape}],
    }
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(content))
    data = f"folder:{pictures}"
    exam = Exam.on(open_images(data), open_images(data, split="val"), Grid(8), 32, masks=path)
    assert exam.shown is not None
    assert {Path(exam.shown.name(index)).name for index in range(len(exam.shown))} == {"0005.png"}
    marks = exam.by_chance((16,))
    assert marks["object_iou_16"] == pytest.approx(1 / 8)
    assert marks["region_iou_16"] == marks["part_iou_16"] == 1
    content["images"][0]["file_name"] = "other.png"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="know none of the images"):
        Exam.on(open_images(data), open_images(data, split="val"), Grid(8), 32, masks=path)


def test_without_held_out_images_there_are_no_marks(pictures: Path) -> None:
    exam = Exam.on(open_images(f"folder:{pictures}"), None, Grid(8), 32)
    encoder = create("nano", image_size=32, sizes=(16, 8, 4))
    assert exam.sit(encoder, "cpu") == exam.by_chance(encoder.sizes) == {}
    assert table(trained={}, chance={}) == "nothing was measured on held-out images"


def test_a_sample_of_the_training_images_votes(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = f"folder:{pictures}"
    both = open_images(data), open_images(data, split="val")
    encoder = create("nano", image_size=32, sizes=(16, 8, 4))
    every, sampled = (Exam.on(*both, Grid(8), 32, voters=count) for count in (48, 9))
    assert capsys.readouterr().err.startswith("kNN: 9 of 48 training images vote")
    assert every.sit(encoder, "cpu").keys() == sampled.sit(encoder, "cpu").keys()


def test_the_table_shows_percent_and_gaps() -> None:
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(trained={"knn": 0.4567, "match": 0.1}, chance={"knn": 0.125}))
    text = console.export_text()
    assert "45.7" in text
    assert "12.5" in text
    assert "n/a" in next(line for line in text.splitlines() if "match" in line)
