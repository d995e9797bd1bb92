"""Tiny trees exactly as the published archives unpack, with odd members, through the door of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Cityscapes as TorchvisionCityscapes

from castssl.datasets import label_pairs, segmentation_sets
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.datasets.pixel_classes import pixel_classes, voc_palette
from castssl.errors import DataError, NoSplit
from castssl.testing import Check, Subject, datasets, parametrize

SIZE = (5, 4)


def write(image: Path, labels: Path | None, values: Sequence[int] = (0, 1), *, palette: bool = False) -> None:
    """An image of 5 x 4 pixels, and a label map that holds these values in order, again and again."""
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (90, 20, 160)).save(image)
    if labels is None:
        return
    labels.parent.mkdir(parents=True, exist_ok=True)
    stored = Image.fromarray(np.resize(np.array(values, dtype=np.uint8), SIZE[::-1]))
    if palette:
        stored = stored.convert("P")
        stored.putpalette([channel for color in voc_palette(256) for channel in color])
        stored.putdata(np.resize(np.array(values, dtype=np.uint8), SIZE[0] * SIZE[1]).tolist())
    stored.save(labels)


def opened(spec: str, split: str = "train") -> Images:
    images = open_images(spec, split=split)
    assert isinstance(images, Images)
    assert images.targets.shape == (len(images), 0)
    return images


def classes(images: Images, index: int = 0) -> list[int]:
    """The first classes of a label map, in order."""
    labels = images.fetch(index, labels=True).labels
    assert labels is not None
    assert labels.shape == SIZE[::-1]
    return [int(value) for value in labels.ravel()]


def odd_members(folder: Path) -> None:
    """What archives and systems leave behind."""
    for name in ("._2007_000032.jpg", "._ADE_train_00000001.png", "Thumbs.db", ".DS_Store"):
        (folder / name).write_bytes(b"\0\5\x16\7")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for stem in ("2007_000032", "2007_000039", "2007_000063", "2007_000033"):
        labels = root / "SegmentationClass" / f"{stem}.png"
        write(root / "JPEGImages" / f"{stem}.jpg", labels, (0, 1, 20, 255), palette=True)
    for stem in ("2008_000001", "2007_000032", "2007_000033"):
        write(root / "JPEGImages" / f"{stem}.jpg", root / "SegmentationClassAug" / f"{stem}.png", (0, 2))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    paths = b"/JPEGImages/2007_000032.jpg /SegmentationClass/2007_000032.png\r\n"
    (lists / "train.txt").write_bytes(paths + b"2007_000039\r\n2007_000063\r\n\r\n")
    (lists / "val.txt").write_text("2007_000033\n")
    (lists / "aug.txt").write_text("2008_000001\n2007_000033\n2007_000039\n")
    (root / "SegmentationClass" / "2007_000063.png").unlink()
    odd_members(root / "JPEGImages")
    return tmp_path


def test_voc(voc: Path) -> None:
    images = opened(f"voc:{voc}/VOCdevkit")
    assert [images.name(row) for row in range(len(images))] == [
        "JPEGImages/2007_000032.jpg",
        "JPEGImages/2007_000039.jpg",
    ]
    assert classes(images)[:4] == [0, 1, 20, -1]
    assert images.pixel_tree.names[0][:2] == ("background", "aeroplane")
    assert images.pixel_tree.sizes == (21,)
    assert images.tree.levels == 0
    (sentence,) = images.left_out
    assert sentence.endswith("of which a file is missing: SegmentationClass/2007_000063.png")
    for place in ("VOCdevkit", "VOCdevkit/VOC2012", "."):
        assert len(opened(f"voc:{voc / place}", "val")) == 1
    with pytest.raises(NoSplit, match="no test split"):
        opened(f"voc:{voc}", "test")


def test_voc_with_the_labels_of_sbd(voc: Path) -> None:
    images = opened(f"voc:aug:{voc}")
    assert [Path(images.name(row)).stem for row in range(3)] == ["2007_000032", "2007_000039", "2008_000001"]
    assert images.maps is not None
    folders = [Path(images.maps.source.name(row)).parent.name for row in range(3)]
    assert folders == ["SegmentationClassAug", "SegmentationClass", "SegmentationClassAug"]
    assert classes(images, 2)[:3] == [0, 2, 0]
    assert classes(opened(f"voc:aug:{voc}", "val"))[:4] == [0, 1, 20, -1]
    lists = voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "trainaug.txt").write_text("2008_000001\n")
    assert len(opened(f"voc:aug:{voc}")) == 1


def test_voc_without_lists_or_labels(voc: Path) -> None:
    root = voc / "VOCdevkit" / "VOC2012"
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"val.txt is empty, expected image names; download"):
        opened(f"voc:{voc}", "val")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("2011_000001\n")
    with pytest.raises(DataError, match=r"each of 1 pairs lacks a file, such as .*2011_000001.jpg"):
        opened(f"voc:{voc}", "val")
    with pytest.raises(DataError, match=r"there is no .*nowhere.*train.txt, expected the names"):
        opened(f"voc:{voc}/nowhere")


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    for word, end in (("training", "train"), ("validation", "val")):
        for number in (2, 1):
            name = f"{word}/ADE_{end}_{number:08}"
            write(root / "images" / f"{name}.jpg", root / "annotations" / f"{name}.png", (0, 1, 150, 255))
        odd_members(root / "images" / word)
        odd_members(root / "annotations" / word)
    for name in ("objectInfo150.txt", "sceneCategories.txt"):
        (root / name).write_text("Idx\tRatio\n")
    write(root / "images" / "training" / "ADE_train_00000003.jpg", None)
    return tmp_path


def test_ade20k_reduces_the_zero_label_once(ade: Path) -> None:
    images = opened(f"ade20k:{ade}")
    assert [images.name(row)[-8:] for row in range(len(images))] == ["0001.jpg", "0002.jpg"]
    assert classes(images)[:4] == [-1, 0, 149, -1]
    assert images.pixel_tree.sizes == (150,)
    assert images.pixel_tree.names[0][:2] == ("wall", "building")
    assert any("annotations/training/ADE_train_00000003.png" in sentence for sentence in images.left_out)
    assert any("hidden" in sentence and ".db" in sentence for sentence in images.left_out)
    assert len(opened(f"ade20k:{ade}/ADEChallengeData2016", "val")) == 2


def test_a_value_beyond_the_classes_names_file_and_value(ade: Path) -> None:
    place = ade / "ADEChallengeData2016"
    name = "training/ADE_train_00000001"
    write(place / "images" / f"{name}.jpg", place / "annotations" / f"{name}.png", (0, 151))
    expected = r"ADE_train_00000001.png has the value 151 \(row 0, column 1; 10 of 20 pixels.*0 to 150, 255"
    with pytest.raises(DataError, match=expected):
        classes(opened(f"ade20k:{ade}"))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2010"
    lists = root / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    for split, stem in (("train", "2008_000002"), ("val", "2008_000003")):
        (lists / f"{split}.txt").write_bytes(stem.encode() + b"\r\n")
        labels = root / "SegmentationClassContext" / f"{stem}.png"
        write(root / "JPEGImages" / f"{stem}.jpg", labels, (0, 1, 59))
    odd_members(root / "JPEGImages")
    return tmp_path


def test_pascal_context_with_and_without_background(context: Path) -> None:
    for spec in (f"pascal-context:{context}", f"pascal-context:60:{context}/VOCdevkit"):
        images = opened(spec)
        assert classes(images)[:3] == [0, 1, 59]
        assert images.pixel_tree.names[0][:2] == ("background", "aeroplane")
        assert images.pixel_tree.sizes == (60,)
    fewer = opened(f"pascal-context:59:{context}", "val")
    assert classes(fewer)[:3] == [-1, 0, 58]
    assert fewer.pixel_tree.names[0] == images.pixel_tree.names[0][1:]
    assert fewer.maps is not None
    assert images.maps is not None
    assert fewer.maps.palette == images.maps.palette[1:]


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    for split, city in (("train", "aachen"), ("train", "zurich"), ("val", "munster"), ("test", "berlin")):
        stem = f"{split}/{city}/{city}_000000_000019"
        image = tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png"
        write(image, tmp_path / "gtFine" / f"{stem}_gtFine_labelIds.png", (0, 7, 26, 33, 3))
        for kind in ("color", "instanceIds"):
            write(tmp_path / "gtFine" / f"{stem}_gtFine_{kind}.png", None)
        (tmp_path / "gtFine" / f"{stem}_gtFine_polygons.json").write_text("{}")
        odd_members(image.parent)
    return tmp_path


def test_cityscapes_by_label_ids(cityscapes: Path) -> None:
    images = opened(f"cityscapes:{cityscapes}")
    assert len(images) == 2
    assert classes(images)[:5] == [-1, 0, 13, 18, -1]
    assert images.pixel_tree.names[0][0] == "road"
    assert len(opened(f"cityscapes:{cityscapes}", "val")) == 1
    with pytest.raises(NoSplit, match="no test split"):
        opened(f"cityscapes:{cityscapes}", "test")


def test_cityscapes_by_train_ids(cityscapes: Path) -> None:
    for path in (cityscapes / "gtFine").rglob("*_labelIds.png"):
        trained = path.with_name(path.name.replace("labelIds", "labelTrainIds"))
        write(cityscapes / "unused.png", trained, (255, 0, 18))
        path.unlink()
    assert classes(opened(f"cityscapes:{cityscapes}"))[:3] == [-1, 0, 18]


def test_cityscapes_ids_names_and_colors_are_those_of_torchvision() -> None:
    evaluated = sorted(
        (label for label in TorchvisionCityscapes.classes if 0 <= label.train_id < 255),
        key=lambda label: label.train_id,
    )
    ours = pixel_classes("cityscapes")
    assert tuple(label.id for label in evaluated) == segmentation_sets.CITYSCAPES_IDS
    assert ours.names == tuple(label.name for label in evaluated)
    assert ours.palette == tuple(tuple(label.color) for label in evaluated)


@pytest.mark.parametrize(
    ("name", "count"), [("voc", 21), ("ade20k", 150), ("pascal-context", 60), ("cityscapes", 19)]
)
def test_classes_have_names_and_colors_of_their_own(name: str, count: int) -> None:
    names, palette = pixel_classes(name)
    assert len(set(names)) == len(palette) == count
    assert len(set(palette)) >= count - 1  # ADE20K's published colors hold one twice.
    assert {len(color) for color in palette} == {3}
    assert all(0 <= channel <= 255 for color in palette for channel in color)


def test_vocs_palette_is_the_published_one() -> None:
    """The first colors of the development kit's documentation."""
    assert pixel_classes("voc").palette[:5] == (
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
    )
    assert voc_palette(256)[255] == (224, 224, 192)
    assert len(set(voc_palette(256))) == 256


@parametrize(
    datasets.checks,
    [
        segmentation_sets.Voc,
        segmentation_sets.Ade20k,
        segmentation_sets.PascalContext,
        segmentation_sets.Cityscapes,
        label_pairs.LabelPairs,
    ],
)
def test_they_keep_the_contract(check: Check, subject: Subject) -> None:
    check(subject)
