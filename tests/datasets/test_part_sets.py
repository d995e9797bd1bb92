"""PartImageNet in its published layout, the demo's parts, and folders with masks of objects alone."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from castssl.datasets.demo.many import DemoMany
from castssl.datasets.demo.objects import PARTS
from castssl.datasets.part_sets import ANIMALS, PARTIMAGENET, PartImageNet, open_parts
from castssl.datasets.parts import PartNames, PartTruth, check_truth
from castssl.errors import DataError

CODEC: Any = import_module("faster_coco_eval.core.mask")
OWNERS = {name: owner for owner, names in enumerate(PARTIMAGENET.parts, 1) for name in names}


def rectangle(top: int, left: int, bottom: int, right: int) -> list[list[float]]:
    """As a polygon."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(top: int, left: int, bottom: int, right: int) -> tuple[list[int], str]:
    """A rectangle of an image of 30 x 40 pixels as runs, and these compressed."""
    inside = np.zeros((30, 40), np.uint8, order="F")
    inside[top:bottom, left:right] = 1
    flat = inside.ravel("F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes.tolist(), flat.size]).tolist()
    return counts, str(CODEC.encode(inside[..., None])[0]["counts"], "ascii")


def written(root: Path, *, split: str = "val", **changes: Any) -> Path:
    """Three images with a bird, a car and nothing, in the layout of PartImageNet."""
    names = ("n01440764_1.JPEG", "n02701002_2.JPEG", "n01484850_3.JPEG")
    for name in names:
        path = root / "images" / split / name.partition("_")[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "green").save(path)
    ids = {name: number for number, name in enumerate(OWNERS)}
    plain, compressed = runs(20, 2, 28, 9)[0], runs(5, 30, 9, 40)[1]
    shapes = [
        (0, "Bird Head", rectangle(2, 2, 10, 12)),
        (0, "Bird Wing", rectangle(8, 10, 20, 30)),
        (0, "Bird Wing", {"size": [30, 40], "counts": plain}),
        (1, "Car Tier", {"size": [30, 40], "counts": compressed}),
    ]
    content = {
        "images": [
            {"id": number, "file_name": name, "height": 30, "width": 40} for number, name in enumerate(names)
        ],
        "categories": [
            {"id": number, "name": name, "supercategory": PARTIMAGENET.objects[OWNERS[name] - 1]}
            for name, number in ids.items()
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": ids[name], "segmentation": shape, "iscrowd": 0}
            for n, (image, name, shape) in enumerate(shapes)
        ],
    }
    path = root / "annotations" / f"{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content | changes))
    return root


def test_the_names_are_those_of_table_8() -> None:
    assert len(PARTIMAGENET.objects) == 11
    assert [len(parts) for parts in PARTIMAGENET.parts] == [4, 5, 4, 5, 2, 4, 3, 4, 2, 5, 2]
    assert len(set(PARTIMAGENET.part_names)) == 40
    assert PARTIMAGENET.objects[ANIMALS - 1 :][:2] == ("Reptile", "Car")
    assert {name for name in PARTIMAGENET.part_names if "Ti" in name} == {"Car Tier", "Bicycle Tier"}
    for owner, first in enumerate((1, 5, 10, 14, 19, 21, 25, 28, 32, 34, 39), start=1):
        assert PARTIMAGENET.first_part(owner) == first
        assert PARTIMAGENET.part_names[first - 1] == PARTIMAGENET.parts[owner - 1][0]


def test_objects_and_parts_from_polygons_and_runs(tmp_path: Path) -> None:
    data = open_parts(str(written(tmp_path)))
    assert isinstance(data, PartImageNet)
    assert (len(data), data.size, data.names) == (3, 224, PARTIMAGENET)
    assert data.name(0) == "n01440764/n01440764_1.JPEG"
    bird, head, wing = 4, 14, 16
    image, truth = data.read(0)
    assert image.size == (40, 30)
    # The head is the smaller one and lies on top; the first wing is larger than the second.
    parts, regions = np.zeros((2, 30, 40), np.int32)
    for number, part, (top, left, bottom, right) in (
        (1, wing, (8, 10, 20, 30)),
        (2, head, (2, 2, 10, 12)),
        (3, wing, (20, 2, 28, 9)),
    ):
        parts[top:bottom, left:right], regions[top:bottom, left:right] = part, number
    assert np.array_equal(truth.parts, parts)
    assert np.array_equal(truth.regions, regions)
    assert np.array_equal(truth.objects, np.where(parts > 0, bird, 0))
    assert {labels.dtype for labels in truth} == {np.dtype(np.int32)}
    expected = np.zeros((30, 40), np.int32)
    expected[5:9, 30:] = 26
    car = data.read(1)[1]
    assert np.array_equal(car.parts, expected)
    assert np.array_equal(car.objects, np.where(expected > 0, 7, 0))
    assert all(not labels.any() for labels in data.read(2)[1])


def test_splits_are_of_their_own_files(tmp_path: Path) -> None:
    written(tmp_path, split="test")
    assert len(open_parts(str(tmp_path), "test")) == 3
    with pytest.raises(DataError, match=r"no annotations .*val\.json; expected PartImageNet's folders"):
        open_parts(str(tmp_path))


def test_images_that_cannot_be_used_name_the_reason(tmp_path: Path) -> None:
    broken = {"size": [30, 40], "counts": "3"}
    other = [{"id": 1, "image_id": 2, "category_id": 0, "segmentation": broken}]
    written(tmp_path, annotations=other)
    folder = tmp_path / "images" / "val"
    (folder / "n01440764" / "n01440764_1.JPEG").unlink()
    (folder / "n02701002" / "n02701002_2.JPEG").write_bytes(b"no image")
    data = open_parts(str(tmp_path))
    reasons = ("has no image n01440764_1.JPEG", "cannot read the image: ", "do not fill 30 x 40")
    for index, reason in enumerate(reasons):
        assert data.name(index)
        with pytest.raises(DataError, match=reason):
            data.read(index)


def test_two_images_of_an_annotated_name_are_not_told_apart_by_chance(tmp_path: Path) -> None:
    path = written(tmp_path) / "images" / "val" / "other" / "n01440764_1.JPEG"
    path.parent.mkdir()
    Image.new("RGB", (40, 30), "red").save(path)
    data = open_parts(str(tmp_path))
    assert data.name(0) == "n01440764_1.JPEG"
    with pytest.raises(DataError, match=r"has 2 images n01440764_1.JPEG, such as .*n01440764_1.JPEG"):
        data.read(0)
    data.read(1)


def test_masks_lie_on_the_upright_image(tmp_path: Path) -> None:
    path = written(tmp_path) / "images" / "val" / "n01440764" / "n01440764_1.JPEG"
    upright = open_parts(str(tmp_path)).read(0)[1]
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.new("RGB", (40, 30), "green").save(path, exif=exif)
    # Masks of the upright image's size are of the upright image.
    assert np.array_equal(open_parts(str(tmp_path)).read(0)[1].parts, upright.parts)
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "green").save(path, exif=exif)
    image, turned = open_parts(str(tmp_path)).read(0)
    assert image.size == (30, 40)
    assert np.array_equal(turned.parts, np.rot90(upright.parts, -1))
    Image.new("RGB", (41, 30), "green").save(path)
    with pytest.raises(DataError, match="40 x 30 pixels, expected 41 x 30"):
        open_parts(str(tmp_path)).read(0)


def test_other_parts_than_those_of_partimagenet_are_refused(tmp_path: Path) -> None:
    written(tmp_path, categories=[{"id": 0, "name": "Dragon Wing"}], annotations=[])
    with pytest.raises(DataError, match="has the part 'Dragon Wing', which PartImageNet lacks"):
        open_parts(str(tmp_path))


def test_the_demo_has_objects_and_parts(image_folder: Path) -> None:
    data = open_parts("demo:size=32,per_class=6,surroundings=fixed")
    assert (data.size, len(data)) == (None, 8)
    for index in range(len(data)):
        image, truth = data.read(index)
        below = image_folder / "parts" / "val" / data.name(index)
        stored = np.array(Image.open(below)).astype(int)
        kind = below.parent.name
        owner = data.names.objects.index(kind) + 1
        assert image.size == (32, 32)
        assert np.array_equal(truth.objects, np.where(stored > 0, owner, 0))
        for number, part in enumerate(PARTS[kind], start=1):
            whole = data.names.part_names.index(f"{kind} {part}") + 1
            assert np.array_equal(truth.parts == whole, stored == number)
        assert np.array_equal(truth.regions, truth.parts)
        check_truth(truth, data.names)


def test_many_labels_an_image_have_no_object_of_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("castssl.datasets.open.build", lambda *_, **__: DemoMany())
    with pytest.raises(DataError, match="has no masks of objects with a class"):
        open_parts("demo-many:size=32,images=4")


def test_a_folder_with_masks_has_objects_and_unknown_parts(image_folder: Path, tmp_path: Path) -> None:
    data = open_parts(str(image_folder))
    truth = data.read(0)[1]
    assert not data.names.part_names
    assert (truth.parts == -1).all()
    assert set(np.unique(truth.objects)) == {0, data.names.objects.index(Path(data.name(0)).parent.name) + 1}
    for name in ("train/a/1.png", "val/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(DataError, match="has no masks of objects with a class; expected PartImageNet's"):
        open_parts(str(tmp_path))
    (tmp_path / "masks" / "val" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="no readable mask of its object"):
        open_parts(str(tmp_path)).read(0)
    Image.new("L", (8, 8), 1).save(tmp_path / "masks/val/a/1.png")  # 1 in place of 255.
    with pytest.raises(DataError, match="its mask has no pixel of its object, expected 255 on the object"):
        open_parts(str(tmp_path)).read(0)


def test_the_declared_range_of_images_with_masks_is_applied(tmp_path: Path) -> None:
    for name, pixels in (
        ("train/a/1.png", np.zeros((8, 8), np.uint8)),
        ("val/a/1.png", np.full((8, 8), 4095, np.uint16)),
        ("masks/val/a/1.png", np.full((8, 8), 255, np.uint8)),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / name)
    brightness = [
        np.array(open_parts(f"folder:{tmp_path}{end}").read(0)[0]).max() for end in ("", "?bits=12")
    ]
    assert brightness == [16, 255]


def test_truth_by_which_nothing_can_be_measured_is_refused() -> None:
    names, known = PartNames(("A",), (("A a",),)), np.zeros((2, 2), np.int32)
    check_truth(PartTruth(known, known, known), names)
    for objects, parts, message in (
        (known - 1, known, "the object of no pixel is known"),
        (known, known - 1, "the part of no pixel is known"),
        (known + 2, known, "has the object 2, expected 0 to 1"),
        (known, known - 2, "has the part -2, expected 0 to 1"),
    ):
        with pytest.raises(DataError, match=message):
            check_truth(PartTruth(objects, parts, parts), names)
    check_truth(PartTruth(known, known - 1, known - 1), PartNames(("A",), ((),)))
