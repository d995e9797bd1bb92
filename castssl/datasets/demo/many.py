"""The demo data set of images with many labels: several objects an image, drawn by the code of ``demo``.

Two to four objects of different fine classes lie on any scene, in the colors of the scene, as in
:mod:`castssl.datasets.demo.paint`: neither the surroundings nor a color is evidence of a label.
Written once:

    <root>/{train,val}/00000.png        RGB
    <root>/masks/{train,val}/00000.png  255 on the objects
    <root>/parts/{train,val}/00000.png  1 + the fine class of the object at each pixel, 0 elsewhere
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from castssl.contracts import DataSet, Listing
from castssl.datasets.demo.dataset import SPLITS, cache, tree, write_painted
from castssl.datasets.demo.paint import KINDS, Kind, paint_many
from castssl.datasets.folder import Files
from castssl.datasets.layout_checks import choose
from castssl.datasets.many_labels import many_labels, multi_hot
from castssl.errors import ConfigError, DataError
from castssl.whole_folders import atomic_folder

VERSION = 1
"""Increases whenever the same seed gives other images, so that no old folder is used as a new one."""
OBJECTS = (2, 4)
"""The smallest and the largest number of objects of an image."""


class Options(NamedTuple):
    """What is drawn.

    Attributes:
        size: side of the images in pixels, at least 32.
        images: of the train split; a fifth as many (at least one) are held out.
        seed: the same seed gives the same bytes.
    """

    size: int = 128
    images: int = 2400
    seed: int = 0


def read_options(location: str) -> Options:
    """The options ``size=128,images=2400,seed=0``.

    Raises:
        DataError: if there is no such option, or its value is not a whole number.
        ConfigError: if a value is out of range.
    """
    try:
        pairs = (pair.partition("=") for pair in location.split(",") if pair)
        options = Options(**{key: int(value) for key, _, value in pairs})
    except (TypeError, ValueError) as error:
        raise DataError(
            f"cannot make the demo data of {location!r}: {error}; expected demo-many, or something like"
            " demo-many:size=128,images=2400,seed=0"
        ) from error
    if options.size < 32 or options.images < 1 or options.seed < 0:
        raise ConfigError(f"demo-many takes size >= 32, images >= 1 and seed >= 0, got {options}")
    return options


def kinds_of(options: Options, split: str, number: int) -> list[Kind]:
    """The classes of the objects of an image, which do not depend on the other images."""
    rng = np.random.default_rng((options.seed, SPLITS.index(split), number, 0))
    chosen = rng.permutation(len(KINDS))[: rng.integers(OBJECTS[0], OBJECTS[1] + 1)]
    return [KINDS[index] for index in chosen]


class DemoMany(DataSet):
    """Generated images of two to four objects, with the options ``size=128,images=2400,seed=0``.

    The labels are of two levels side by side, 4 coarse and 8 fine classes, as in ``demo``.  The mask of an
    image is that of all its objects, and its parts are the objects:
    :meth:`castssl.datasets.images.Images.parts` is 1 + c on the object of the fine class c.
    """

    location = ""
    splits = SPLITS
    target = "multihot"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        split = choose(split, {name: name for name in SPLITS}, "demo-many")
        options = read_options(location)
        root = cache() / f"demo-many-v{VERSION}-{options.size}px-{options.images}images-seed{options.seed}"
        if not root.is_dir():
            with atomic_folder(root, "demo data set of many labels") as aside:
                _write(aside, options)
        known = tree()
        kinds = [kinds_of(options, split, number) for number in range(count(options, split))]
        coarse = multi_hot([[kind.coarse for kind in several] for several in kinds], known.names[0])
        fine = multi_hot([[kind.fine for kind in several] for several in kinds], known.names[1])
        names = [_name(number) for number in range(len(kinds))]
        return Listing(
            Files(root / split, names),
            torch.cat([coarse, fine], 1),
            many_labels(*known.names, parents=known.parents),
            root / "masks" / split,
        )

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        return "size=32,images=4"


def count(options: Options, split: str) -> int:
    """The number of images of a split."""
    return options.images if split == "train" else max(options.images // 5, 1)


def _name(number: int) -> str:
    return f"{number:05d}.png"


def _write(folder: Path, options: Options) -> None:
    for split in SPLITS:
        # Painting is mostly cv2 and numpy, which release the interpreter lock.
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(partial(_write_one, folder, options, split), range(count(options, split))))


def _write_one(folder: Path, options: Options, split: str, number: int) -> None:
    kinds = kinds_of(options, split, number)
    rng = np.random.default_rng((options.seed, SPLITS.index(split), number, 1))
    image, seen = paint_many(rng, kinds, options.size)
    fine = tree().names[1]
    values = np.array([0, *(1 + fine.index(kind.fine) for kind in kinds)], np.uint8)
    write_painted(folder, f"{split}/{_name(number)}", image, values[seen])
