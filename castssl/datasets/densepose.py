"""DensePose: persons of COCO with 14 body parts, https://arxiv.org/abs/1802.00434; and groups of these parts.

CAST (https://arxiv.org/abs/2210.00314, section 4.1) groups them into head, torso, upper limbs and lower
limbs, and these into the person.  Hands are counted as upper limbs here, and feet as lower limbs.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from castssl.datasets.coco_masks import BODY_PARTS, Annotations
from castssl.datasets.folder import Files
from castssl.datasets.images import Images
from castssl.datasets.part_sets import MaskedParts
from castssl.datasets.parts import PartNames
from castssl.errors import DataError
from castssl.labels import LabelTree

GROUPS = {
    "head": ("head",),
    "torso": ("torso",),
    "upper limbs": tuple(name for name in BODY_PARTS if name.endswith(("hand", "arm"))),
    "lower limbs": tuple(name for name in BODY_PARTS if name.endswith(("foot", "leg"))),
}
"""The 14 body parts in four groups."""
LABELS = (len(BODY_PARTS), len(GROUPS), 1)
"""How many labels the three levels have, fine to coarse."""
FILES = ("densepose_coco_2014_{}.json", "densepose_{}2014.json")
FOLDERS = ("val2014", "train2014", "images")


def group(parts: NDArray[np.int32], labels: int) -> NDArray[np.int64]:
    """The labels of a level.

    Args:
        parts: int32, 1 to 14 in the order of :data:`castssl.datasets.coco_masks.BODY_PARTS`, 0 elsewhere, -1
            where unknown.
        labels: one of :data:`LABELS`.

    Returns:
        int64 of the same shape: 1, 2, ... on labels, 0 elsewhere, -1 where unknown.
    """
    numbers = [
        number for part in BODY_PARTS for number, names in enumerate(GROUPS.values(), 1) if part in names
    ]
    table = {
        len(BODY_PARTS): [*range(1, len(BODY_PARTS) + 1)],
        len(GROUPS): numbers,
        1: [1] * len(BODY_PARTS),
    }
    return np.array([0, *table[labels], -1])[parts]


def open_densepose(root: Path, split: str = "minival") -> MaskedParts:
    """DensePose-COCO as published: ``annotations/densepose_coco_2014_SPLIT.json`` and COCO's images.

    Persons without body parts are background.  Where persons overlap, the smaller part counts.

    Args:
        root: the folder of ``annotations/``, and of the images' ``val2014/`` and ``train2014/``.
        split: "minival", "valminusminival" or "train".

    Raises:
        DataError: if there are no such annotations, or they are broken or have no body parts.
        PluginError: if faster-coco-eval is not installed, which reads them.
    """
    paths = [root / "annotations" / name.format(split) for name in FILES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise DataError(
            f"no annotations {' or '.join(map(str, paths))}; expected COCO's folder, with annotations/ and"
            " val2014/"
        )
    masks = Annotations.read(path)
    if masks.names != BODY_PARTS:
        raise DataError(
            f"{path} has no dp_masks, the masks of body parts; give DensePose's annotations of COCO"
        )
    files = [
        next((f"{folder}/{file}" for folder in FOLDERS if (root / folder / file).is_file()), file)
        for file in (PurePosixPath(file).name for file in masks.files)
    ]
    if twice := [file for file, count in Counter(files).items() if count > 1]:
        raise DataError(
            f"{path} annotates several images {PurePosixPath(twice[0]).name}; COCO's images have names of"
            " their own, download the annotations again"
        )
    targets, tree = torch.zeros(len(files), 1, dtype=torch.int64), LabelTree((1,), (), (("person",),))
    images = Images(Files(root, files), np.arange(len(files)), targets, tree, masks=masks)
    return MaskedParts(images, PartNames(("person",), (BODY_PARTS,)))
