"""Tiny trees as the published archives unpack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from castssl.contracts import Listing
from castssl.datasets.multilabel_sets import Coco14, NusWide, Voc07
from castssl.datasets.pixel_classes import pixel_classes
from castssl.errors import DataError, NoSplit
from tests.datasets.tree_layouts import write_jpegs

VOC = pixel_classes("voc").names[1:]
STEMS = ("000005", "000007", "000012")
OBJECTS = {
    "000005": [("chair", 1), ("chair", 0), ("sofa", 1)],
    "000007": [("car", 0), ("person", 1), ("person", 1)],
    "000012": [],
}
"""Class and difficult of each object."""


def names(listing: Listing) -> list[str]:
    return [Path(listing.source.name(row)).name for row in range(len(listing.source))]


def labels(listing: Listing, row: int) -> dict[str, float]:
    """The labels of an image other than 0."""
    assert listing.targets.dtype == torch.float32
    assert listing.targets.shape == (len(listing.source), sum(listing.tree.sizes))
    values = zip(listing.tree.names[0], listing.targets[row].tolist(), strict=True)
    return {name: value for name, value in values if value}


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOC 2007 with annotations, and lists of the images only."""
    root = tmp_path / "VOCdevkit" / "VOC2007"
    write_jpegs(root, [f"JPEGImages/{stem}.jpg" for stem in STEMS])
    for stem, found in OBJECTS.items():
        objects = "".join(
            f"\n\t<object>\n\t\t<name>{name}</name>\n\t\t<difficult>{difficult}</difficult>"
            "\n\t\t<part><name>head</name></part>\n\t</object>"
            for name, difficult in found
        )
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}\n</annotation>\n")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("000005\n000007\n000012\n")
    (root / "ImageSets" / "Main" / "test.txt").write_text("000012\n")
    return root


def write_voc_lists(root: Path, word: str = "trainval") -> None:
    """The lists of classes, by VOC's own values: 0 where all objects are difficult."""
    for name in VOC:
        lines = []
        for stem, found in OBJECTS.items():
            flags = [difficult for other, difficult in found if other == name]
            lines.append(f"{stem} {-1 if not flags else 0 if all(flags) else 1:2}")
        (root / "ImageSets" / "Main" / f"{name}_{word}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("lists", [True, False])
def test_voc_by_lists_or_annotations(voc: Path, lists: bool) -> None:
    if lists:
        write_voc_lists(voc)
        (voc / "ImageSets" / "Main" / "trainval.txt").unlink()
    for place in (voc, voc.parent, voc.parent.parent):
        train = Voc07().open(str(place), "train")
        assert names(train) == [f"{stem}.jpg" for stem in STEMS]
        assert train.tree.names == (VOC,)
        assert not train.tree.exclusive
        assert labels(train, 0) == {"chair": 1, "sofa": -1}
        assert labels(train, 1) == {"car": 1, "person": -1}
        assert labels(train, 2) == {}
    assert train.source.open(0).read(2) == b"\xff\xd8"
    assert names(Voc07().open(str(voc), "val")) == names(Voc07().open(str(voc), "test")) == ["000012.jpg"]


def test_missing_images_are_counted_and_listed(voc: Path) -> None:
    (voc / "JPEGImages" / "000007.jpg").unlink()
    train = Voc07().open(str(voc), "train")
    assert names(train) == ["000005.jpg", "000012.jpg"]
    assert labels(train, 1) == {}
    assert train.left_out == ("left out 1 of 3 images that are missing on disk: JPEGImages/000007.jpg",)
    for stem in STEMS:
        (voc / "JPEGImages" / f"{stem}.jpg").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"3 of 3 images are missing, such as .*000005.jpg"):
        Voc07().open(str(voc), "train")


def test_no_entity_of_an_annotation_is_resolved(voc: Path) -> None:
    (secret := voc / "secret").write_text("person")
    path = voc / "Annotations" / "000005.xml"
    path.write_text(
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
        "<annotation><object><name>&x;</name></object></annotation>"
    )
    with pytest.raises(DataError, match=r"000005.xml declares a document type"):
        Voc07().open(str(voc), "train")
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(DataError, match=r"000005.xml declares a document type"):
        Voc07().open(str(voc), "train")
    path.write_text("<annotation><object><name>&x;</name></object></annotation>")
    with pytest.raises(DataError, match=r"000005.xml is not XML \(undefined entity"):
        Voc07().open(str(voc), "train")


def test_voc_names_what_is_wrong(voc: Path) -> None:
    (voc / "Annotations" / "000007.xml").write_text("<a><object><name>unicorn</name></object></a>")
    with pytest.raises(DataError, match=r"000007.xml has an object of class 'unicorn', expected one of aero"):
        Voc07().open(str(voc), "train")
    write_voc_lists(voc)
    path = voc / "ImageSets" / "Main" / "dog_trainval.txt"
    path.write_text(path.read_text().replace("000012 -1", "000012  2"))
    with pytest.raises(DataError, match=r"dog_trainval.txt has the line '000012 2'"):
        Voc07().open(str(voc), "train")
    path.write_text("000005 -1\n")
    with pytest.raises(DataError, match=r"dog_trainval.txt has other images than aeroplane_trainval.txt"):
        Voc07().open(str(voc), "train")
    path.unlink()
    with pytest.raises(DataError, match=r"there is no .*dog_trainval.txt, expected lines of an image and 1"):
        Voc07().open(str(voc), "train")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """COCO 2014, whose category ids have gaps and whose lists are not in order."""
    files = [f"COCO_train2014_{number:012}.jpg" for number in (9, 25, 30)]
    write_jpegs(tmp_path / "train2014", files)
    ids = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    content = {
        "images": [
            {"id": number, "file_name": file} for number, file in zip((9, 25, 30), files, strict=True)
        ],
        "categories": [{"id": number, "name": f"name {number}"} for number in reversed(ids)],
        "annotations": [
            {
                "image_id": 30,
                "category_id": 90,
                "iscrowd": 1,
                "segmentation": {"counts": [1], "size": [1, 1]},
            },
            {"image_id": 9, "category_id": 13, "iscrowd": 0, "segmentation": [[1.0, 2.0]]},
            {"image_id": 9, "category_id": 13, "iscrowd": 0, "segmentation": []},
            {"image_id": 9, "category_id": 1, "iscrowd": 0, "segmentation": []},
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2014.json").write_text(json.dumps(content))
    return tmp_path


def test_coco(coco: Path) -> None:
    train = Coco14().open(str(coco), "train")
    assert names(train) == ["COCO_train2014_000000000009.jpg", "COCO_train2014_000000000030.jpg"]
    assert train.tree.sizes == (80,)
    assert train.tree.names[0][10:12] == ("name 11", "name 13")
    assert [labels(train, row) for row in range(2)] == [{"name 1": 1, "name 13": 1}, {"name 90": 1}]
    assert train.left_out == ("left out 1 of 3 images that have none of the labels",)
    assert train.source.open(0).read(2) == b"\xff\xd8"
    everything = Coco14().open(f"all:{coco}", "train")
    assert len(names(everything)) == 3
    assert labels(everything, 1) == {}
    assert not everything.left_out
    with pytest.raises(NoSplit, match="no test split"):
        Coco14().open(str(coco), "test")
    with pytest.raises(DataError, match=r"there is no .*instances_val2014.json, expected the annotations"):
        Coco14().open(str(coco), "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["categories"].pop(), "got 79 categories, expected the 80"),
        (lambda content: content["annotations"][0].update(image_id=1), "image_id 1 and category_id 90"),
        (lambda content: content["annotations"][0].update(category_id=12), "image_id 30 and category_id 12"),
        (lambda content: content["images"][0].update(id=25), "3 images have 2 different ids"),
        (lambda content: content.pop("images"), "images is missing"),
    ],
)
def test_coco_names_what_is_wrong(coco: Path, change: Any, message: str) -> None:
    path = coco / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"instances_train2014.json: .*{message}"):
        Coco14().open(str(coco), "train")
    path.write_text("{")
    with pytest.raises(DataError, match=r"instances_train2014.json is not JSON"):
        Coco14().open(str(coco), "train")


CONCEPTS = sorted(["airport", "zebra", *(f"concept{number}" for number in range(79))])


@pytest.fixture
def nus(tmp_path: Path) -> Path:
    """NUS-WIDE with the names of Windows, of which one image is missing and one lies elsewhere."""
    root = tmp_path / "NUS-WIDE"
    write_jpegs(root, ["Flickr/actor/0001_11.jpg", "images/0002_12.jpg", "Flickr/zoo/0004_14.jpg"])
    (root / "ImageList").mkdir()
    lines = (
        "actor\\0001_11.jpg",
        "C:\\Data\\Flickr\\actor\\0002_12.jpg",
        "zoo\\0003_13.jpg",
        "zoo/0004_14.jpg",
    )
    (root / "ImageList" / "TrainImagelist.txt").write_bytes("\r\n".join((*lines, "")).encode())
    (root / "ImageList" / "TestImagelist.txt").write_text("zoo\\0004_14.jpg\n")
    folder = root / "Groundtruth" / "TrainTestLabels"
    folder.mkdir(parents=True)
    for concept in CONCEPTS:
        values = {"airport": "1 0 1 0", "zebra": "1 1 0 0"}.get(concept, "0 0 0 0")
        (folder / f"Labels_{concept}_Train.txt").write_bytes(values.replace(" ", " \r\n").encode())
        (folder / f"Labels_{concept}_Test.txt").write_text("1\n" if concept == "zebra" else "0\n")
    return root


def test_nus_wide(nus: Path) -> None:
    train = NusWide().open(str(nus.parent), "train")
    assert [train.source.name(row) for row in range(2)] == ["Flickr/actor/0001_11.jpg", "images/0002_12.jpg"]
    assert train.tree.names == (tuple(CONCEPTS),)
    assert train.tree.sizes == (81,)
    assert [labels(train, row) for row in range(2)] == [{"airport": 1, "zebra": 1}, {"zebra": 1}]
    assert train.left_out == (
        "left out 1 of 4 images that are missing on disk: Flickr/zoo/0003_13.jpg",
        "left out 1 of 4 images that have none of the labels",
    )
    everything = NusWide().open(f"all:{nus}", "train")
    assert len(names(everything)) == 3
    assert labels(everything, 2) == {}
    for split in ("val", "test"):
        assert labels(NusWide().open(str(nus), split), 0) == {"zebra": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zebra_Train", "1\n0\n1\n", "zebra_Train.txt has 3 labels, expected 4"),
        ("zebra_Train", "1\n0\n1\n2\n", "zebra_Train.txt has 4 labels, expected 4, 0 or 1"),
        ("zoo_Train", "1\n", r"has 82 files Labels_\*_Train.txt, expected one for each of 81 concepts"),
    ],
)
def test_nus_wide_names_what_is_wrong(nus: Path, name: str, content: str, message: str) -> None:
    (nus / "Groundtruth" / "TrainTestLabels" / f"Labels_{name}.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        NusWide().open(str(nus), "train")
