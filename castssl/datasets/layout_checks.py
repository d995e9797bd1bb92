"""Checks of the files and folders of a data set; errors give what is missing, and the download page."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from castssl.datasets.file_names import is_image
from castssl.datasets.split_folders import split_name
from castssl.datasets.text import read_text, refuse_options
from castssl.errors import DataError, NoSplit

HOMES = {
    "ade20k": "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    "cityscapes": "https://www.cityscapes-dataset.com/downloads/",
    "pascal-context": "https://cs.stanford.edu/~roozbeh/pascal-context/ (labels), VOC 2010 (images)",
    "coco14": "https://cocodataset.org/#download",
    "nus-wide": "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html",
    "voc07": "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
    "voc": "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    "imagenet": "https://image-net.org/download (ILSVRC 2012)",
    "cub": "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    "aircraft": "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    "free-grained": "https://github.com/pseulki/FreeGrainLearning (folder data/, and links in its readme)",
    "inat21-mini": "https://github.com/visipedia/inat_comp/tree/master/2021",
}
"""Public home pages."""


def require(path: Path, holds: str, home: str) -> Path:
    """``path``, which exists.

    Args:
        path: a file or folder of the data set.
        holds: its content, for the message.
        home: a key of :data:`HOMES`.

    Raises:
        DataError: if it is not there.
    """
    if path.exists():
        return path
    refuse_options(path)
    parent = next(above for above in path.absolute().parents if above.exists())
    raise DataError(
        f"there is no {path}, expected {holds}; the path exists up to {parent}. Check the path after the"
        f" last colon; download the data set from {HOMES[home]}"
    )


def inside(root: Path, *folders: str) -> Path:
    """The first of these folders in ``root`` that exists, else ``root``: users name either."""
    return next((root / folder for folder in folders if (root / folder).is_dir()), root)


def pairs(path: Path, holds: str, home: str) -> list[tuple[str, str]]:
    """The lines of an annotation file, each split at its first space: (key, value), in order.

    Raises:
        DataError: if the file is missing, a line has no value, or there is no line.
    """
    lines = read_text(require(path, holds, home)).splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        key, _, value = line.strip().partition(" ")
        if key and not value:
            raise DataError(f"{path}, line {number}: {key!r} stands alone, expected {holds}")
        rows += [(key, value.strip())] if key else []
    if not rows:
        raise DataError(f"{path} is empty, expected {holds}; download the data set from {HOMES[home]}")
    return rows


def choose(split: str, offered: dict[str, str], title: str) -> str:
    """The data set's own name of ``split``.

    Args:
        split: from the user.
        offered: train, val, test -> the data set's name.
        title: the data spec, for the message.

    Raises:
        NoSplit: if the data set has no such split.
    """
    word = split_name(split) or split
    if word not in offered:
        raise NoSplit(f"{title} has no {split} split with labels, expected {' or '.join(offered)}")
    return offered[word]


def list_classes(folder: Path, classes: Iterable[str]) -> tuple[list[str], Tensor]:
    """The images of each class folder, sorted, and their numbers int64; a missing folder has none."""
    files, counts = list[str](), []
    for name in classes:
        names = sorted(os.listdir(folder / name)) if (folder / name).is_dir() else []
        images = [f"{name}/{file}" for file in names if is_image(file)]
        counts.append(len(images))
        files += images
    return files, torch.tensor(counts)
