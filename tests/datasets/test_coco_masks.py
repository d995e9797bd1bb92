"""A file in PartImageNet's layout, its masks beside another library's, and what is wrong with broken ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.draw import polygon2mask

from castssl.datasets.coco_masks import Annotations, fill, paste
from castssl.datasets.images import Images
from castssl.datasets.masks import open_masks
from castssl.datasets.open import open_images
from castssl.errors import DataError, PluginError
from castssl.evaluation.overlap import masked_by
from tests.datasets import densepose_files
from tests.datasets.densepose_files import densepose, two_persons

Json = dict[str, Any]


def partimagenet() -> Json:
    """As PartImageNet's ``val.json``, cut down: categories are parts and begin at 0."""
    return {
        "info": {"description": "PartImageNet"},
        "images": [
            {"file_name": "n02484322/n02484322_1234.JPEG", "height": 30, "width": 40, "id": 7},
            {"file_name": "n02484322_99.JPEG", "height": 10, "width": 10, "id": 8},
        ],
        "categories": [
            {"id": 1, "name": "Quadruped Body", "supercategory": "Quadruped"},
            {"id": 0, "name": "Quadruped Head", "supercategory": "Quadruped"},
        ],
        "annotations": [
            part(1, 7, 0, [[2, 2, 12, 2, 12, 12, 2, 12]]),
            part(2, 7, 1, [[10, 2, 30, 2, 30, 22, 10, 22], [35.0, -5.5, 99.5, -5.5, 99.5, 3.0, 35.0, 3.0]]),
        ],
    }


def part(number: int, image: int, category: int, segmentation: Any) -> Json:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "area": 1.0,
        "bbox": [0, 0, 1, 1],
        "iscrowd": 0,
    }


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "val.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_parts_and_their_union(tmp_path: Path) -> None:
    masks = open_masks(written(tmp_path, partimagenet()))
    assert isinstance(masks, Annotations)
    assert masks.names == ("Quadruped Head", "Quadruped Body")
    # The head is the smaller one and lies on top; the second polygon of the body is cut at the border.
    expected = np.zeros((30, 40), np.uint8)
    expected[2:22, 10:30] = 2
    expected[:3, 35:] = 2
    expected[2:12, 2:12] = 1
    parts, mask = masks.parts("val/n02484322_1234.JPEG"), masks.mask("n02484322_1234.JPEG")
    assert parts is not None
    assert parts.mode == "L"
    assert np.array_equal(np.array(parts), expected)
    assert mask is not None
    assert np.array_equal(np.array(mask), np.where(expected > 0, 255, 0))


def test_images_are_known_by_the_last_part_of_their_name(tmp_path: Path) -> None:
    masks = Annotations.read(written(tmp_path, partimagenet()))
    assert masks.knows("any/folder/n02484322_1234.JPEG")
    assert not masks.knows("n02484322_1234.png")
    assert masks.mask("n02484322_1235.JPEG") is masks.parts("x") is None
    empty = masks.mask("n02484322_99.JPEG")
    assert empty is not None
    assert empty.getextrema() == (0, 0)


def test_images_of_one_name_in_two_folders_have_masks_of_their_own(tmp_path: Path) -> None:
    content = partimagenet()
    content["images"] = [
        {"file_name": name, "height": 10, "width": 10, "id": number}
        for number, name in enumerate(("a/1.png", "b/1.png"))
    ]
    content["annotations"] = [part(n, n, n, [[0, 0, 10, 0, 10, 10, 0, 10]]) for n in (0, 1)]
    masks = Annotations.read(written(tmp_path, content))
    assert masks.files == ("a/1.png", "b/1.png")
    for name, value in (("a/1.png", 1), ("val/b/1.png", 2)):
        found = masks.parts(name)
        assert found is not None
        assert found.getextrema() == (value, value)
    assert masks.parts("1.png") is masks.parts("c/1.png") is None


def test_a_mask_is_of_one_image_of_a_folder(tmp_path: Path) -> None:
    """The first image's file name in the annotations has another folder, the second's has none."""
    folder = tmp_path / "set"
    for name in ("a/n02484322_1234.JPEG", "a/n02484322_99.JPEG", "b/n02484322_99.JPEG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "green").save(folder / name)
    images, masks = open_images(f"folder:{folder}"), open_masks(written(tmp_path, partimagenet()))
    assert isinstance(images, Images)
    masked, indices = masked_by(masks, images)
    assert [masked.name(index) for index in indices] == ["a/n02484322_1234.JPEG"]
    assert masked.mask(0) is not None
    assert masked.mask(1) is masked.mask(2) is None, "one mask, and two images of its name"


def test_runs_go_down_the_columns(tmp_path: Path) -> None:
    content = partimagenet()
    content["annotations"] = [part(1, 8, 1, {"size": [10, 10], "counts": [3, 2, 10, 5, 80]})]
    parts = Annotations.read(written(tmp_path, content)).parts("n02484322_99.JPEG")
    expected = np.zeros((10, 10), np.uint8)
    expected[3:5, 0] = expected[5:, 1] = 2
    assert np.array_equal(np.array(parts), expected)


def test_more_parts_than_a_byte_holds(tmp_path: Path) -> None:
    content = partimagenet()
    content["categories"] = [{"id": i, "name": str(i)} for i in range(300)]
    content["annotations"] = [part(1, 8, 299, [[0, 0, 10, 0, 10, 10, 0, 10]])]
    parts = Annotations.read(written(tmp_path, content)).parts("n02484322_99.JPEG")
    assert parts is not None
    assert (parts.mode, parts.getextrema()) == ("I", (300, 300))


COMPRESSED = {"size": [10, 10], "counts": "32:3V2"}
"""The runs of the test above, as COCO's tools write them."""


def compressed(tmp_path: Path) -> Path:
    content = partimagenet()
    content["annotations"] = [part(1, 8, 1, COMPRESSED)]
    return written(tmp_path, content)


def test_compressed_runs_need_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core.mask", None)
    with pytest.raises(PluginError, match="pip install faster-coco-eval"):
        Annotations.read(compressed(tmp_path))


def test_compressed_runs(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    parts = np.array(Annotations.read(compressed(tmp_path)).parts("n02484322_99.JPEG"))
    assert np.argwhere(parts).tolist() == [[3, 0], [4, 0], [5, 1], [6, 1], [7, 1], [8, 1], [9, 1]]


def test_body_parts_of_densepose_are_pasted_into_the_boxes_of_persons(tmp_path: Path) -> None:
    path = densepose_files.write(tmp_path / "minival.json", densepose(two_persons()))
    masks = open_masks(path)
    assert isinstance(masks, Annotations)
    assert (len(masks.names), masks.names[0], masks.names[13]) == (14, "torso", "head")
    assert masks.files == ("COCO_val2014_000000000139.jpg", "COCO_val2014_000000000785.jpg")
    for file, expected in zip(masks.files, densepose_files.maps(), strict=True):
        parts, mask = masks.parts(file), masks.mask(f"val2014/{file}")
        assert np.array_equal(np.array(parts), expected)
        assert np.array_equal(np.array(mask) > 0, expected > 0)


@pytest.mark.parametrize("fault", ["box", "nested box", "no box", "flat", "three", "size", "runs"])
def test_body_parts_that_are_none(tmp_path: Path, fault: str) -> None:
    annotations = two_persons()
    first, size, counts = annotations[0], [256, 256], "0"
    changes: dict[str, Json] = {
        "box": {"bbox": [1, 2, 3]},
        "nested box": {"bbox": [[1], 2, 3, 4]},
        "no box": {"bbox": None},
        "flat": {"bbox": [1, 2, 0, 3]},
        "three": {"dp_masks": [[]] * 3},
        "size": {"dp_masks": [{"size": [8, 8], "counts": counts}] * 14},
        "runs": {"dp_masks": [{"size": size, "counts": counts}] * 14},
    }
    messages = {
        "three": "a list of 14 dp_masks",
        "size": r"\[256, 256\]",
        "runs": "do not fill 256 x 256 pixels",
    }
    path = densepose_files.write(
        tmp_path / "minival.json", densepose([first | changes[fault], *annotations[1:]])
    )
    with pytest.raises(DataError, match=messages.get(fault, r"expected \[x, y, width, height\]")):
        open_masks(path).parts("COCO_val2014_000000000139.jpg")


@given(
    box=st.tuples(*[st.floats(-9, 9)] * 2, *[st.floats(0.1, 30)] * 2),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
@settings(deadline=None, max_examples=50)
def test_a_pixel_has_the_cell_that_its_center_is_in(
    box: tuple[float, float, float, float], grid: tuple[int, int]
) -> None:
    x, y, width, height = box
    mask = np.random.default_rng(0).random(grid) > 0.5
    expected = np.zeros((7, 5), np.bool_)
    for row, column in np.ndindex(7, 5):
        cell_y, cell_x = (row + 0.5 - y) / height * grid[0], (column + 0.5 - x) / width * grid[1]
        if 0 <= cell_y < grid[0] and 0 <= cell_x < grid[1]:
            expected[row, column] = mask[int(cell_y), int(cell_x)]
    assert np.array_equal(paste(mask, box, 7, 5), expected)


def broken(**changes: Any) -> Json:
    content = partimagenet()
    for key, value in changes.items():
        first = content[key][0]
        content[key][0] = {**first, **value} if isinstance(value, dict) else value
    return content


FAULTS: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "is not JSON"),
    "no object": ([], "images is missing"),
    "no list": (partimagenet() | {"categories": {}}, "categories is no list"),
    "no object in a list": (broken(images=3), "images is no list of objects"),
    "no id": (broken(images={"id": None}), "whole number as id, got None"),
    "no name": (broken(images={"file_name": None}), "got None of 40 x 30"),
    "no size": (broken(images={"height": 0}), "of 40 x 0 pixels"),
    "too large": (broken(images={"height": 10**30}), "expected images of 1 to"),
    "same name": (broken(images={"file_name": "n02484322_99.JPEG"}), "is there twice"),
    "same id": (broken(images={"id": 8}), "is there twice"),
    "strange image": (broken(annotations={"image_id": 9}), "annotation 1 has image_id 9"),
    "strange category": (broken(annotations={"category_id": 9}), "annotation 1 has category_id 9"),
    "no segmentation": (broken(annotations={"segmentation": None}), "annotation 1: got the segm"),
    "half a point": (broken(annotations={"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}), "expected polygons"),
    "two points": (broken(annotations={"segmentation": [[1, 2, 3, 4]]}), "expected polygons"),
    "words": (broken(annotations={"segmentation": [["1"] * 6]}), "expected polygons"),
    "far away": (broken(annotations={"segmentation": [[1e300] * 6]}), "within 1e.06 pixels"),
    "not a number": (broken(annotations={"segmentation": [[float("nan")] * 6]}), "expected polygons"),
    "other size": (broken(annotations={"segmentation": {"size": [3, 3], "counts": [9]}}), r"\[30, 40\]"),
    "short runs": (broken(annotations={"segmentation": {"size": [30, 40], "counts": [9]}}), "fill the"),
    "overflow": (
        broken(annotations={"segmentation": {"size": [30, 40], "counts": [2**63 - 1, 2**63 - 1, 2, 1200]}}),
        "fill the",
    ),
    "nested runs": (
        broken(annotations={"segmentation": {"size": [30, 40], "counts": [[600], [600]]}}),
        "fill the",
    ),
    "negative runs": (broken(annotations={"segmentation": {"size": [30, 40], "counts": [-1, 1201]}}), "fill"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_files_say_where_and_what(tmp_path: Path, fault: str) -> None:
    content, message = FAULTS[fault]
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=message) as error:
        open_masks(path)
    assert str(path) in str(error.value)


@given(
    corners=st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 20)), min_size=3, max_size=9),
    height=st.integers(1, 14),
    width=st.integers(1, 19),
)
@settings(deadline=None, max_examples=100)
def test_a_pixel_belongs_to_the_polygon_that_holds_its_center(
    corners: list[tuple[float, float]], height: int, width: int
) -> None:
    # Off the pixels' centers, where either answer is right; both axes alike would leave diagonals on them.
    polygon = np.array(corners) + np.array([0.123456, 0.0271828])
    # Theirs takes (row, column), with centers at whole numbers, and any larger image gives the same.
    theirs = polygon2mask((height, width), polygon[:, ::-1] - 0.5)  # type: ignore[no-untyped-call]
    assert np.array_equal(fill(polygon, height, width), theirs)


def test_images_take_them_in_place_of_folders(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet" / "train" / "n02484322"
    folder.mkdir(parents=True)
    for name in ("n02484322_1234.JPEG", "n02484322_5.JPEG"):
        Image.new("RGB", (40, 30), "green").save(folder / name)
    images = open_images(f"folder:{tmp_path / 'imagenet'}")
    assert isinstance(images, Images)
    images.masks = open_masks(written(tmp_path, partimagenet()))
    mask, parts = images.mask(0), images.parts(0)
    assert mask is not None
    assert parts is not None
    assert mask.size == parts.size == (40, 30)
    assert (images.mask(1), images.parts(1)) == (None, None)
    assert images.take([0]).parts(0) is not None
