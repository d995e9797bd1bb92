"""Data sets whose training images are labeled at a level of their own, by the lists of Free-Grained.

Free-Grained Hierarchical Visual Recognition (CVPR 2026), https://arxiv.org/abs/2510.14737.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from PIL import Image

from castssl.contracts import DataSet, Listing
from castssl.datasets import taxonomies
from castssl.datasets.aircraft import Aircraft
from castssl.datasets.cub import Cub
from castssl.datasets.file_names import is_image
from castssl.datasets.folder import Files
from castssl.datasets.free_grain import draw_depths, hide_below
from castssl.datasets.free_grain_lists import (
    HOME,
    Given,
    ImageList,
    class_folders,
    read_list,
    read_names,
    read_tree,
)
from castssl.datasets.layout_checks import HOMES, choose, inside
from castssl.datasets.split_folders import split_name
from castssl.datasets.text import known_options
from castssl.errors import DataError
from castssl.labels import LabelTree

STAND_INS: Mapping[str, tuple[str, ...]] = {"train": ("train_mini", "images"), "val": ("test", "images")}
"""Folders that hold the images of a list where the folder that the list names does not."""


class ListedSet(DataSet):
    """A data set of the lists ``NAME-train.txt`` and ``NAME-val.txt`` of Free-Grained.

    The location is the folder of the images, ``DIR/train/CLASS/IMAGE`` and ``DIR/val/CLASS/IMAGE``.  The
    lists lie there, in ``DIR/data``, or in the folder of the option ``?lists=FOLDER``.  Targets (basic,
    subordinate, fine).  In train, labels below the level that the list gives are -1; in val all are known.
    ``?given=range`` reads the level alone from the list's last column, and does not compare its class with
    the other columns.

    Raises:
        DataError: if a file is missing, or a line of it is not as released; the message names it.
    """

    location = "/path/to/images?lists=/path/to/FreeGrainLearning/data"
    splits = ("train", "val")
    title: ClassVar[str]
    """The registered name."""
    lists: ClassVar[str]
    """What the names of both lists begin with."""
    layout: ClassVar[str]
    """The paths of the images, for messages."""
    hides: ClassVar[bool] = True
    """False if all labels of the train list are known."""

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        base, _, query = location.partition("?")
        options = known_options(self.title, query, ("lists", "given"))
        root = inside(Path(base).expanduser(), "CUB_200_2011")
        word = choose(split, {"train": "train", "val": "val"}, self.title)
        folder = find_lists(root, options.get("lists", ""), f"{self.lists}-val.txt")
        tree = self.read_tree(folder)
        listed = self._column(options.get("given", "checked"))
        column: Given = "absent" if word == "val" else listed
        path = folder / f"{self.lists}-{word}.txt"
        images = read_list(path, tree, column)
        if split_name(images.first) != word:
            raise DataError(
                f"{path}, line 1: the path begins with {images.first}/, expected {word}/; is it the list of"
                " another split?"
            )
        source = Files(self._find_images(root, word, images, path), images.files)
        count = images.repeated
        repeats = (f"left out {count:,} lines of {path}: each repeats an earlier one",) if count else ()
        return Listing(source, hide_below(images.paths, images.depths), tree, left_out=repeats)

    def read_tree(self, folder: Path) -> LabelTree:
        """The label tree, by the files of the folder of the lists."""
        raise NotImplementedError(f"{type(self).__name__}.read_tree")

    def _column(self, given: str) -> Given:
        if given not in ("checked", "range"):
            raise DataError(f"{self.title}: given={given}, expected checked or range")
        if not self.hides:
            return "unused"
        return "range" if given == "range" else "checked"

    def _find_images(self, root: Path, word: str, images: ImageList, path: Path) -> Path:
        """The folder below which the images of a list lie."""
        for name in (images.first, *STAND_INS[word]):
            if (root / name / images.files[0]).is_file():
                return root / name
        folder = root / images.first
        if folder.is_dir() and any(is_image(entry.name) for entry in os.scandir(folder)):
            raise DataError(
                f"the images lie flat in {folder}, expected one folder a class, as"
                f" {folder / images.files[0]}; sort them into the folders that {path} names"
            )
        raise DataError(
            f"there is no {folder / images.files[0]}, which {path} names first; expected {self.layout} below"
            f" {root}. Check the path after the colon; the lists are those of {HOMES[HOME]}"
        )


class ImageNetF(ListedSet):
    """ImageNet-F of Free-Grained, ``imagenet-f:IMAGENET?lists=LISTS``: 20, 127 and 505 classes.

    Reads ``imagenet-F-{train,val}.txt``, ``imagenet-3L-tree.json`` and
    ``imagenet-3L-id_{basic,subord,finegrained}_dic.json``, and the images of ImageNet (ILSVRC 2012) as
    ``{train,val}/<wnid>/*.JPEG``.
    """

    location = "/path/to/imagenet?lists=/path/to/FreeGrainLearning/data"
    title = "imagenet-f"
    lists = "imagenet-F"
    layout = "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG of ImageNet (ILSVRC 2012)"

    def read_tree(self, folder: Path) -> LabelTree:
        """See :class:`ListedSet`."""
        tree = read_tree(folder / "imagenet-3L-tree.json")
        files = (f"imagenet-3L-id_{level}_dic.json" for level in ("basic", "subord", "finegrained"))
        named = zip(files, tree.sizes, strict=True)
        return replace(tree, names=tuple(read_names(folder / file, size) for file, size in named))

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        images = [(basic, 2 * basic + leaf) for basic in range(2) for leaf in range(2)]
        for split in ("train", "val"):
            lines = []
            for number, (basic, fine) in enumerate(images):
                place = folder / split / f"n0000000{fine}" / f"{split}_{number}.JPEG"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16 + number, 16), (64 * number, 128, 0)).save(place)
                given = f" {(basic, 2 + fine, 6 + fine)[number % 3]}" if split == "train" else ""
                lines.append(f"{split}/{place.parent.name}/{place.name} {basic} {fine} {fine}{given}\n")
            (folder / f"{self.lists}-{split}.txt").write_text("".join(lines), encoding="utf-8")
        tree = str([[fine, fine, basic] for basic, fine in images])
        (folder / "imagenet-3L-tree.json").write_text(tree, encoding="utf-8")
        for level, count in (("basic", 2), ("subord", 4), ("finegrained", 4)):
            names = ", ".join(f'"{number}": "{level} {number}"' for number in range(count))
            (folder / f"imagenet-3L-id_{level}_dic.json").write_text(f"{{{names}}}", encoding="utf-8")
        return str(folder)


class ImageNet3L(ImageNetF):
    """ImageNet-3L of Free-Grained, ``imagenet-3l:IMAGENET?lists=LISTS``: as ``imagenet-f``, with all labels.

    The last column of the train list is not read, and may be missing.
    """

    title = "imagenet-3l"
    hides = False


class Inat21F(ListedSet):
    """iNat21-F of Free-Grained, ``inat21-f:INAT21?lists=LISTS``: 273 orders, 1,103 families, 10,000 species.

    Reads ``inat21-F-{train,val}.txt`` and ``inat21-F-tree.json``, and the images of iNaturalist 2021 mini as
    distributed.  The class folders of the val list give the names.
    """

    location = "/path/to/inat21?lists=/path/to/FreeGrainLearning/data"
    title = "inat21-f"
    lists = "inat21-F"
    layout = "train_mini/<class>/*.jpg (or train/) and val/<class>/*.jpg of iNaturalist 2021 mini"

    def read_tree(self, folder: Path) -> LabelTree:
        """See :class:`ListedSet`."""
        tree = read_tree(folder / "inat21-F-tree.json")
        val = read_list(folder / "inat21-F-val.txt", tree, "absent")
        names = [[str(number) for number in range(size)] for size in tree.sizes]
        for path, name in zip(tree.paths().tolist(), class_folders(val, tree.sizes[-1]), strict=True):
            parts = name.split("_", 7)
            if len(parts) == 8:
                for level, part in enumerate((parts[4], parts[5], " ".join(parts[6:]))):
                    names[level][path[level]] = part
        return replace(tree, names=tuple(map(tuple, names)))


class CubReal(ListedSet):
    """CUB-Real of Free-Grained, ``cub-real:CUB_200_2011?lists=LISTS``: 13 orders, 38 families, 200 species.

    Reads ``cub-Real-{train,val}.txt``, and the images of CUB-200-2011 as distributed (``images/``), or sorted
    into ``train/`` and ``val/`` or ``test/``.  The classes are those of ``cub``.
    """

    location = "/path/to/CUB_200_2011?lists=/path/to/FreeGrainLearning/data"
    title = "cub-real"
    lists = "cub-Real"
    layout = "images/<class>/*.jpg of CUB-200-2011, or train/<class>/*.jpg and test/<class>/*.jpg"

    def read_tree(self, folder: Path) -> LabelTree:
        """See :class:`ListedSet`."""
        count = taxonomies.CUB_SPECIES
        unnamed = taxonomies.cub([str(number) for number in range(count)])
        folders = class_folders(read_list(folder / "cub-Real-val.txt", unnamed, "absent"), count)
        species = [name.partition(".")[2].replace("_", " ") or name for name in folders]
        return taxonomies.cub([name or str(number) for number, name in enumerate(species)])


class CubF(Cub):
    """CUB-F of Free-Grained, ``cub-f:CUB_200_2011``: ``cub``, with labels hidden in train.

    Of each class 10 % of the images keep all labels, 40 % order and family, 50 % the order; ``?seed=N`` draws
    others.  It is ``cub`` with ``--free-grain 0.5/0.4/0.1:0``.  The published images were drawn by numpy's
    shuffle, and are other ones.
    """

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        return open_drawn(super().open, "cub-f", (0.5, 0.4, 0.1), location, split)


class AircraftF(Aircraft):
    """Aircraft-F of Free-Grained, ``aircraft-f:DIR``: ``aircraft``, with labels hidden in train.

    Of each class 30 % of the images keep all labels, 30 % manufacturer and family, 40 % the manufacturer;
    ``?seed=N`` draws others.  It is ``aircraft`` with ``--free-grain 0.4/0.3/0.3:0``.  The published images
    were drawn by numpy's shuffle, and are other ones.
    """

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        return open_drawn(super().open, "aircraft-f", (0.4, 0.3, 0.3), location, split)


def open_drawn(
    opener: Callable[[str, str], Listing], title: str, shares: Sequence[float], location: str, split: str
) -> Listing:
    """What ``opener`` opens, without the train labels that ``draw_depths`` hides."""
    base, seed = read_seed(title, location)
    listing = opener(base, split)
    if split_name(split) != "train":
        return listing
    names = [listing.source.name(row) for row in range(len(listing.targets))]
    depths = draw_depths(names, listing.targets[:, -1].numpy(), shares, seed)
    return listing._replace(targets=hide_below(listing.targets, depths))


def read_seed(title: str, location: str) -> tuple[str, int]:
    """A location without its option ``seed``, and that, 0 by default.

    Raises:
        DataError: if it is not a whole number from 0, or there are other options.
    """
    base, _, query = location.partition("?")
    seed = known_options(title, query, ("seed",)).get("seed", "0")
    if not (seed.isascii() and seed.isdecimal()):
        raise DataError(f"{title}: got seed={seed!r}, expected a whole number from 0")
    return base, int(seed)


def find_lists(root: Path, given: str, name: str) -> Path:
    """The folder of the lists: ``given``, or the folder of the images, or ``data`` in it.

    Raises:
        DataError: if the list ``name`` is in none of them.
    """
    places = [Path(given).expanduser()] if given else [root, root / "data"]
    found = next((place for place in places if (place / name).is_file()), None)
    if found is None:
        raise DataError(
            f"there is no {name} in {' or '.join(map(str, places))}; take it from {HOMES[HOME]}, and give its"
            " folder as ?lists=FOLDER behind the location"
        )
    return found
