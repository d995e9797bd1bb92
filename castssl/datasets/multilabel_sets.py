"""Published data sets of images with many labels, as unpacked: VOC 2007, COCO 2014, NUS-WIDE.

Their targets are those of :mod:`castssl.datasets.many_labels`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from castssl.contracts import DataSet, Listing
from castssl.datasets.coco_masks import objects, whole_number
from castssl.datasets.folder import Files
from castssl.datasets.layout_checks import HOMES, choose, inside, pairs, require
from castssl.datasets.left_out import some
from castssl.datasets.many_labels import ABSENT, PRESENT, UNKNOWN, many_labels, multi_hot
from castssl.datasets.pixel_classes import pixel_classes
from castssl.datasets.segmentation_sets import Existing, read_list, write_list
from castssl.datasets.text import read_text
from castssl.errors import DataError

VOC_LABELS = {"1": PRESENT, "-1": ABSENT, "0": UNKNOWN}
"""The target of each value in VOC's lists: 0 stands for a class whose objects are all difficult."""
COCO_CLASSES, NUS_CONCEPTS = 80, 81


def list_images(
    root: Path,
    files: Sequence[str],
    targets: Tensor,
    names: Sequence[str],
    *,
    drop_unlabeled: bool = False,
    existing: Existing | None = None,
) -> Listing:
    """A split of images with many labels; images that are missing on disk are left out, and reported.

    Args:
        root: the folder of the data set.
        files: paths of images below it.
        targets: float32 (n, C), a row for each of ``files``.
        names: of the classes.
        drop_unlabeled: leave out images without any label, and report how many.
        existing: which files there are, if that is known.

    Raises:
        DataError: if no image is left.
    """
    existing = existing or Existing(root)
    there = np.array([file in existing for file in files], dtype=bool)
    labeled = (targets != 0).any(1).numpy() if drop_unlabeled else np.ones(len(files), dtype=bool)
    missing = [file for file, found in zip(files, there, strict=True) if not found]
    rows = np.flatnonzero(there & labeled)
    if not len(rows):
        example = f", such as {root / missing[0]}" if missing else ""
        raise DataError(
            f"{root} has no image with labels: {len(missing):,} of {len(files):,} images are missing"
            f"{example}; check that images and labels are unpacked into the same folder"
        )
    left_out = []
    if missing:
        left_out.append(
            f"left out {len(missing):,} of {len(files):,} images that are missing on disk: {some(missing)}"
        )
    if unlabeled := int((there & ~labeled).sum()):
        left_out.append(f"left out {unlabeled:,} of {len(files):,} images that have none of the labels")
    return Listing(
        Files(root, [files[row] for row in rows.tolist()]),
        targets[torch.from_numpy(rows)],
        many_labels(names),
        left_out=tuple(left_out),
    )


class Voc07(DataSet):
    """PASCAL VOC 2007 (Everingham et al., 2010): VOCdevkit, or VOC2007 in it; 20 classes.

    Train is ``trainval``; val and test are both ``test``.  A class is 1 if at least one of its objects is not
    difficult, and -1 if it has objects that are all difficult.  The labels are those of the lists
    ``ImageSets/Main/CLASS_SPLIT.txt``, or of ``Annotations`` where there are no lists of classes.

    Raises:
        DataError: if a list or an annotation is missing, or not as expected.
    """

    location = "/path/to/VOCdevkit"
    target = "multihot"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        root = inside(Path(location).expanduser(), "VOCdevkit/VOC2007", "VOC2007")
        word = choose(split, {"train": "trainval", "val": "test", "test": "test"}, "voc07")
        names, lists = pixel_classes("voc").names[1:], root / "ImageSets" / "Main"
        if any((lists / f"{name}_{word}.txt").is_file() for name in names):
            stems, targets = _voc_lists(lists, word, names)
        else:
            stems = read_list(lists / f"{word}.txt", "voc07")
            found = [_voc_annotation(root / "Annotations" / f"{stem}.xml", names) for stem in stems]
            targets = multi_hot([present for present, _ in found], names, [unknown for _, unknown in found])
        return list_images(root, [f"JPEGImages/{stem}.jpg" for stem in stems], targets, names)

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        for number, word in enumerate(("trainval", "test")):
            stems = [f"{number}0000{image}" for image in range(3)]
            for column, name in enumerate(pixel_classes("voc").names[1:]):
                lines = [f"{stem} {(column + image) % 3 - 1:2}" for image, stem in enumerate(stems)]
                write_list(folder / f"VOC2007/ImageSets/Main/{name}_{word}.txt", lines)
            write_images(folder / "VOC2007/JPEGImages", [f"{stem}.jpg" for stem in stems])
        return str(folder)


def _voc_lists(folder: Path, word: str, names: Sequence[str]) -> tuple[list[str], Tensor]:
    """The images of a split, and their labels by the list of each class."""
    stems: list[str] = []
    columns = []
    for name in names:
        path = folder / f"{name}_{word}.txt"
        rows = pairs(path, "lines of an image and 1, 0 or -1", "voc07")
        stems = stems or [stem for stem, _ in rows]
        if [stem for stem, _ in rows] != stems:
            raise DataError(f"{path} has other images than {names[0]}_{word}.txt; {_again('voc07')}")
        strange = [f"{stem} {value}" for stem, value in rows if value not in VOC_LABELS]
        if strange:
            raise DataError(f"{path} has the line {strange[0]!r}, expected an image and 1, 0 or -1")
        columns.append([VOC_LABELS[value] for _, value in rows])
    return stems, torch.tensor(columns, dtype=torch.float32).T.contiguous()


def _voc_annotation(path: Path, names: Sequence[str]) -> tuple[set[str], set[str]]:
    """The classes of the objects of one image: of those that are not difficult, and of the difficult ones.

    A document type is refused, so that no entity is ever defined, expanded or fetched.
    """
    text = read_text(require(path, "the objects of an image", "voc07"))
    if "<!DOCTYPE" in text:
        raise DataError(f"{path} declares a document type, which VOC's annotations do not; {_again('voc07')}")
    try:
        found = ElementTree.fromstring(text).findall("object")
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is not XML ({error}); {_again('voc07')}") from error
    present, difficult = set[str](), set[str]()
    for item in found:
        name = item.findtext("name", "").strip()
        if name not in names:
            raise DataError(f"{path} has an object of class {name!r}, expected one of {', '.join(names)}")
        (difficult if item.findtext("difficult", "0").strip() == "1" else present).add(name)
    return present, difficult


class Coco14(DataSet):
    """COCO 2014 (Lin et al., 2014): the folder with train2014, val2014 and annotations; 80 classes.

    The labels are those of ``annotations/instances_{train,val}2014.json``, of crowds, too.  Images without
    any are left out, as in the released code of HSVLT; ``coco14:all:/path`` keeps them.

    Raises:
        DataError: if the annotations are missing, or not as expected.
    """

    location = "/path/to/coco"
    splits = ("train", "val")
    target = "multihot"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        everything, root = _place(location)
        word = choose(split, {"train": "train2014", "val": "val2014"}, "coco14")
        path = require(root / "annotations" / f"instances_{word}.json", "the annotations", "coco14")
        try:
            # Without the segmentations, which are nearly the whole file.
            content = json.loads(path.read_text(encoding="utf-8"), object_hook=_without_segmentation)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON ({error}); {_again('coco14')}") from error
        try:
            files, targets, names = _coco_labels(content)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        files = [f"{word}/{file}" for file in files]
        return list_images(root, files, targets, names, drop_unlabeled=not everything)

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        categories = [{"id": 2 * number + 1, "name": f"class {number}"} for number in range(COCO_CLASSES)]
        for word in ("train2014", "val2014"):
            files = [f"COCO_{word}_{number:012}.jpg" for number in range(3)]
            images = [{"id": number, "file_name": file} for number, file in enumerate(files)]
            annotations = [
                {"image_id": image, "category_id": category, "segmentation": []}
                for image, category in ((0, 1), (0, 159), (1, 3))
            ]
            write_images(folder / word, files)
            (folder / "annotations").mkdir(exist_ok=True)
            content = {"images": images, "categories": categories, "annotations": annotations}
            (folder / f"annotations/instances_{word}.json").write_text(json.dumps(content))
        return str(folder)


def _without_segmentation(item: dict[str, Any]) -> dict[str, Any]:
    item.pop("segmentation", None)
    return item


def _coco_labels(content: Any) -> tuple[list[str], Tensor, list[str]]:
    """The names of the images, their labels, and the names of the classes in the order of their ids."""
    images, categories, annotations = (
        objects(content, key) for key in ("images", "categories", "annotations")
    )
    names = {whole_number(item, "id", "categories"): str(item.get("name", "")) for item in categories}
    if len(names) != COCO_CLASSES:
        raise DataError(f"got {len(names)} categories, expected the {COCO_CLASSES} of COCO's instances")
    labels: dict[int, set[str]] = {whole_number(image, "id", "images"): set() for image in images}
    if len(labels) != len(images):
        raise DataError(f"{len(images)} images have {len(labels)} different ids; {_again('coco14')}")
    for annotation in annotations:
        image, category = (
            whole_number(annotation, key, "annotations") for key in ("image_id", "category_id")
        )
        if image not in labels or category not in names:
            raise DataError(
                f"an annotation has image_id {image} and category_id {category}, of which one is not among"
                f" the images and categories; {_again('coco14')}"
            )
        labels[image].add(names[category])
    classes = [names[number] for number in sorted(names)]
    files = [str(image.get("file_name", "")) for image in images]
    return files, multi_hot(list(labels.values()), classes), classes


class NusWide(DataSet):
    """NUS-WIDE (Chua et al., 2009): the folder with ImageList, Groundtruth and Flickr; 81 concepts.

    Val and test are both the test split.  The labels are those of
    ``Groundtruth/TrainTestLabels/Labels_CONCEPT_{Train,Test}.txt``, in the order of
    ``ImageList/{Train,Test}Imagelist.txt``.  Images are found by name: as ``FOLDER/NAME.jpg`` or ``NAME.jpg``
    in ``Flickr``, ``images`` or the folder itself; many are no longer available from Flickr.  Images without
    any label are left out, as in the released code of HSVLT; ``nus-wide:all:/path`` keeps them.

    Raises:
        DataError: if a list is missing, or the lists disagree.
    """

    location = "/path/to/NUS-WIDE"
    target = "multihot"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        everything, root = _place(location)
        root = inside(root, "NUS-WIDE")
        word = choose(split, {"train": "Train", "val": "Test", "test": "Test"}, "nus-wide")
        labels = require(root / "Groundtruth" / "TrainTestLabels", "the labels", "nus-wide")
        start, end = "Labels_", f"_{word}.txt"
        paths = labels.glob(f"{start}*{end}")
        names = sorted(path.name.removeprefix(start).removesuffix(end) for path in paths)
        if len(names) != NUS_CONCEPTS:
            raise DataError(
                f"{labels} has {len(names)} files {start}*{end}, expected one for each of {NUS_CONCEPTS}"
                f" concepts; {_again('nus-wide')}"
            )
        images = root / "ImageList" / f"{word}Imagelist.txt"
        lines = read_text(require(images, "the names of the images", "nus-wide")).splitlines()
        listed = [PureWindowsPath(line.strip()) for line in lines if line.strip()]
        existing = Existing(root)
        files = [_nus_file(path.parts[-2:], existing) for path in listed]
        columns = [_nus_labels(labels / f"{start}{name}{end}", len(files)) for name in names]
        targets = torch.from_numpy(np.stack(columns, 1))
        return list_images(root, files, targets, names, drop_unlabeled=not everything, existing=existing)

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        for word in ("Train", "Test"):
            files = [f"actor/000{number}_{word}.jpg" for number in range(3)]
            write_images(folder / "Flickr", files)
            write_list(folder / f"ImageList/{word}Imagelist.txt", [file.replace("/", "\\") for file in files])
            for concept in range(NUS_CONCEPTS):
                lines = [str(int((image + concept) % 2)) for image in range(3)]
                name = f"Labels_concept{concept:02}_{word}.txt"
                write_list(folder / "Groundtruth" / "TrainTestLabels" / name, lines)
        return str(folder)


def _nus_file(parts: Sequence[str], existing: Existing) -> str:
    """Where an image lies below the folder of the data set, by the last two parts of its listed path."""
    names = dict.fromkeys(("/".join(parts), parts[-1]))
    places = [f"{folder}{name}" for folder in ("Flickr/", "images/", "") for name in names]
    return next((place for place in places if place in existing), places[0])


def _nus_labels(path: Path, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The labels of one concept, float32 (n,): one 0 or 1 per line."""
    digits = np.frombuffer(path.read_bytes().translate(None, b" \t\r\n"), dtype=np.uint8)
    if len(digits) != count or not np.isin(digits, (ord("0"), ord("1"))).all():
        raise DataError(
            f"{path} has {len(digits)} labels, expected {count}, 0 or 1, one for each image of the list;"
            f" {_again('nus-wide')}"
        )
    return (digits - ord("0")).astype(np.float32)


def _place(location: str) -> tuple[bool, Path]:
    """Whether images without labels are kept (``all:``), and the folder."""
    return location.startswith("all:"), Path(location.removeprefix("all:")).expanduser()


def _again(home: str) -> str:
    return f"download the data set again from {HOMES[home]}"


def write_images(folder: Path, names: Iterable[str]) -> None:
    """Write an image of 24 x 20 pixels for each name, for an example."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 20), (90, 20, 160 + 30 * number)).save(path)
