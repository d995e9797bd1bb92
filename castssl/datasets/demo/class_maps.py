"""The demo data set with a class of each pixel: the fine class of the object, or its surroundings."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from castssl.contracts import DataSet, Listing
from castssl.datasets.demo.dataset import SPLITS, root_of, tree
from castssl.datasets.label_maps import class_table
from castssl.datasets.pixel_classes import PixelClasses, voc_palette
from castssl.datasets.segmentation_sets import Pair, list_pairs
from castssl.whole_folders import atomic_folder


class DemoMaps(DataSet):
    """The images of ``demo``, by the same options; label maps of 9 classes, 0 for the surroundings.

    The maps are made from the masks of the objects on the first use and kept beside the images.
    """

    location = ""
    splits = SPLITS
    target = "map"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        images = root_of(location)
        names = tree().names
        maps = images.with_name(f"{images.name}-classes")
        files = sorted(path.relative_to(images / split) for path in (images / split).rglob("*.png"))
        if not maps.is_dir():
            with atomic_folder(maps, "label maps of the demo data set") as aside:
                write = partial(_write, images / "masks", aside, names[1])
                with ThreadPoolExecutor(os.cpu_count()) as threads:
                    list(threads.map(write, sorted((images / "masks").rglob("*.png"))))
        classes = ("surroundings", *names[1])
        below = (f"{images.name}/{split}", f"{maps.name}/{split}")
        pairs = [Pair(*(f"{folder}/{file.as_posix()}" for folder in below)) for file in files]
        known = PixelClasses(classes, voc_palette(len(classes)))
        return list_pairs(images.parent, pairs, known, class_table(len(classes)))

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        return "size=16,per_class=2"


def _write(masks: Path, folder: Path, fine: tuple[str, ...], mask: Path) -> None:
    pixels = np.asarray(Image.open(mask)) > 0
    place = folder / mask.relative_to(masks)
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels * np.uint8(1 + fine.index(place.parent.name))).save(place)
