"""Published data sets of label maps as unpacked: VOC, ADE20K, Pascal Context, Cityscapes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from castssl.contracts import DataSet, LabelMaps, Listing
from castssl.datasets.file_names import is_image
from castssl.datasets.folder import Files, look_through
from castssl.datasets.label_maps import class_table
from castssl.datasets.layout_checks import HOMES, choose, inside, require
from castssl.datasets.left_out import some
from castssl.datasets.pixel_classes import PixelClasses, pixel_classes
from castssl.datasets.text import read_text
from castssl.errors import DataError
from castssl.labels import LabelTree

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each class (train id) of Cityscapes; the other ids, 0 to 33, are not evaluated."""


class Pair(NamedTuple):
    """An image and its label map, as paths below the folder of the data set."""

    image: str
    labels: str


class Existing:
    """Which files lie in the folders of a data set; each folder is listed once.

    Args:
        root: the folder of the data set.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            place = self.root / folder
            self._folders[folder] = {entry.name for entry in place.iterdir()} if place.is_dir() else set()
        return name in self._folders[folder]


def list_pairs(
    root: Path,
    pairs: Collection[Pair],
    classes: PixelClasses,
    table: Mapping[int, int],
    left_out: Iterable[str] = (),
    *,
    existing: Existing | None = None,
) -> Listing:
    """A split of images with label maps; pairs of which one file is missing are left out, and reported.

    Args:
        root: the folder of the data set.
        pairs: paths below it.
        classes: names and colors.
        table: the class of each value of the label maps.
        left_out: further sentences about what is left out.
        existing: which files there are, if that is known.

    Raises:
        DataError: if no pair is complete.
    """
    existing = existing or Existing(root)
    complete, missing = [], []
    for pair in pairs:
        absent = [path for path in pair if path not in existing]
        missing += absent[:1]
        complete += [] if absent else [pair]
    if not complete:
        example = f", such as {root / missing[0]}" if missing else ""
        raise DataError(
            f"{root} has no image with a label map: each of {len(pairs)} pairs lacks a file{example}; check"
            " that images and label maps are unpacked into the same folder"
        )
    sentences = [*left_out]
    if missing:
        sentences.append(
            f"left out {len(missing):,} of {len(pairs):,} pairs of image and label map, of which a file is"
            f" missing: {some(missing)}"
        )
    images, labels = (Files(root, [pair[part] for pair in complete]) for part in range(2))
    return Listing(
        images,
        torch.empty(len(complete), 0, dtype=torch.int64),
        LabelTree.flat(classes.names),
        left_out=tuple(sentences),
        maps=LabelMaps(labels, table, classes.palette),
    )


class Voc(DataSet):
    """PASCAL VOC 2012 segmentation: VOCdevkit, or VOC2012 in it; voc:aug:/path trains on SBD's labels, too.

    21 classes with background; 255, the border of objects, is unknown.  The augmented train split is
    ``trainaug.txt``, or ``train.txt`` and ``aug.txt``, without the images of ``val.txt``; its label maps lie
    in ``SegmentationClassAug``, or else in ``SegmentationClass``.

    Raises:
        DataError: if a list is missing, or no listed image has a label map.
    """

    location = "/path/to/VOCdevkit"
    splits = ("train", "val")
    target = "map"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        augmented, path = location.startswith("aug:"), location.removeprefix("aug:")
        root = inside(Path(path).expanduser(), "VOCdevkit/VOC2012", "VOC2012")
        word = choose(split, {"train": "train", "val": "val"}, "voc")
        lists = root / "ImageSets" / "Segmentation"
        folders, names = ["SegmentationClass"], [word]
        if augmented and word == "train":
            folders = ["SegmentationClassAug", "SegmentationClass"]
            names = ["trainaug"] if (lists / "trainaug.txt").is_file() else ["train", "aug"]
        stems = [stem for name in names for stem in read_list(lists / f"{name}.txt", "voc")]
        if augmented and word == "train" and (lists / "val.txt").is_file():
            held_out = set(read_list(lists / "val.txt", "voc"))
            stems = [stem for stem in stems if stem not in held_out]
        existing, pairs = Existing(root), []
        for stem in dict.fromkeys(stems):
            places = [f"{folder}/{stem}.png" for folder in folders]
            pairs.append(
                Pair(f"JPEGImages/{stem}.jpg", next((p for p in places if p in existing), places[-1]))
            )
        return list_pairs(root, pairs, pixel_classes("voc"), class_table(21), existing=existing)

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        for split in self.splits:
            write_list(folder / f"VOC2012/ImageSets/Segmentation/{split}.txt", [f"2007_{split}"])
            write_pair(
                folder / f"VOC2012/JPEGImages/2007_{split}.jpg",
                folder / f"VOC2012/SegmentationClass/2007_{split}.png",
                (0, 1, 20, 255),
            )
        return str(folder)


class PascalContext(DataSet):
    """Pascal Context: VOCdevkit, or VOC2010 in it, with SegmentationClassContext; 60 classes with background.

    ``pascal-context:59:/path`` leaves the background out: 0 is unknown (``reduce_zero_label``).

    Raises:
        DataError: if a list is missing, or no listed image has a label map.
    """

    location = "/path/to/VOCdevkit"
    splits = ("train", "val")
    target = "map"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        count, mark, path = location.partition(":")
        reduced = bool(mark) and count == "59"
        path = path if mark and count in ("59", "60") else location
        root = inside(Path(path).expanduser(), "VOCdevkit/VOC2010", "VOC2010")
        word = choose(split, {"train": "train", "val": "val"}, "pascal-context")
        stems = read_list(root / "ImageSets" / "SegmentationContext" / f"{word}.txt", "pascal-context")
        pairs = [
            Pair(f"JPEGImages/{stem}.jpg", f"SegmentationClassContext/{stem}.png")
            for stem in dict.fromkeys(stems)
        ]
        classes = pixel_classes("pascal-context")
        classes = classes.drop_first() if reduced else classes
        return list_pairs(root, pairs, classes, class_table(len(classes.names), reduce_zero_label=reduced))

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        for split in self.splits:
            write_list(folder / f"VOC2010/ImageSets/SegmentationContext/{split}.txt", [f"2008_{split}"])
            write_pair(
                folder / f"VOC2010/JPEGImages/2008_{split}.jpg",
                folder / f"VOC2010/SegmentationClassContext/2008_{split}.png",
                (0, 1, 59),
            )
        return str(folder)


class Ade20k(DataSet):
    """ADE20K's scene parsing benchmark: ADEChallengeData2016 or what holds it; 150 classes.

    The value 0, all other objects, is unknown, and 1 to 150 are the classes 0 to 149.

    Raises:
        DataError: if a folder is missing, or no image has a label map.
    """

    location = "/path/to/ADEChallengeData2016"
    splits = ("train", "val")
    target = "map"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        root = inside(Path(location).expanduser(), "ADEChallengeData2016")
        word = choose(split, {"train": "training", "val": "validation"}, "ade20k")
        folder = require(root / "images" / word, "the folder of images", "ade20k")
        files, left_out = look_through(folder)
        pairs = [
            Pair(f"images/{word}/{name}", f"annotations/{word}/{name.rpartition('.')[0]}.png")
            for name in files
        ]
        return list_pairs(
            root, pairs, pixel_classes("ade20k"), class_table(150, reduce_zero_label=True), left_out
        )

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        for word in ("training", "validation"):
            name = f"ADE_{word[:3]}_00000001"
            images, labels = (folder / kind / word / name for kind in ("images", "annotations"))
            write_pair(images.with_suffix(".jpg"), labels.with_suffix(".png"), (0, 1, 150))
        return str(folder)


class Cityscapes(DataSet):
    """Cityscapes' fine annotations: the folder with leftImg8bit and gtFine; the 19 evaluated classes.

    Reads ``_gtFine_labelIds.png``, whose other ids are unknown, or ``_gtFine_labelTrainIds.png`` where there
    are not label ids.  The test split has no labels.

    Raises:
        DataError: if a folder is missing, or no image has a label map.
    """

    location = "/path/to/cityscapes"
    splits = ("train", "val")
    target = "map"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        root = inside(Path(location).expanduser(), "cityscapes")
        word = choose(split, {"train": "train", "val": "val"}, "cityscapes")
        folder = require(root / "leftImg8bit" / word, "folders of images, one for each city", "cityscapes")
        files, left_out = look_through(folder)
        stems = [name.removesuffix("_leftImg8bit.png") for name in files if name.endswith("_leftImg8bit.png")]
        existing, classes = Existing(root), pixel_classes("cityscapes")
        ids = dict.fromkeys(range(34), -1) | {id_: n for n, id_ in enumerate(CITYSCAPES_IDS)}
        tables = {"labelIds": ids | {255: -1}, "labelTrainIds": class_table(len(CITYSCAPES_IDS))}
        by_kind = {
            kind: [
                Pair(f"leftImg8bit/{word}/{stem}_leftImg8bit.png", f"gtFine/{word}/{stem}_gtFine_{kind}.png")
                for stem in stems
            ]
            for kind in tables
        }
        kind = next((kind for kind in tables if any(p.labels in existing for p in by_kind[kind])), "labelIds")
        return list_pairs(root, by_kind[kind], classes, tables[kind], left_out, existing=existing)

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        for split in self.splits:
            name = f"{split}/aachen/aachen_000000_000019"
            write_pair(
                folder / f"leftImg8bit/{name}_leftImg8bit.png",
                folder / f"gtFine/{name}_gtFine_labelIds.png",
                (0, 7, 26, 33),
            )
        return str(folder)


def read_list(path: Path, home: str) -> list[str]:
    """The image names of a list, one per line, also of paths as ``/JPEGImages/NAME.jpg /Labels/NAME.png``.

    Args:
        path: of the list.
        home: a key of :data:`castssl.datasets.layout_checks.HOMES`.

    Raises:
        DataError: if the list is missing or empty.
    """
    lines = read_text(require(path, "the names of the images, one per line", home)).splitlines()
    names = [PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path} is empty, expected image names; download the data set from {HOMES[home]}")
    return names


def write_list(path: Path, names: Sequence[str]) -> None:
    """Write a list of image names, for an example."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n", encoding="utf-8")


def write_pair(image: Path, labels: Path, values: Sequence[int]) -> None:
    """Write an image of 24 x 20 pixels and a label map with these values, for an example."""
    assert is_image(image.name)
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), (90, 20, 160)).save(image)
    Image.fromarray(np.resize(np.array(values, dtype=np.uint8), (20, 24))).save(labels)
