"""CUB-200-2011 as distributed (Wah et al., 2011): bird species, with the families and orders above them.

The files count images and classes from 1, and none promises an order: they are joined by image id.
"""

from __future__ import annotations

from pathlib import Path

import torch

from castssl.contracts import DataSet, Listing
from castssl.datasets import taxonomies
from castssl.datasets.folder import Files
from castssl.datasets.layout_checks import choose, inside, pairs, require
from castssl.errors import DataError


class Cub(DataSet):
    """Birds of CUB-200-2011: the folder ``CUB_200_2011`` or what holds it; val and test are its test split.

    Targets (order, family, species); a species' index is its number in ``classes.txt`` less one.

    Raises:
        DataError: if a file is missing, the files disagree, or there are not 200 classes.
    """

    location = "/path/to/CUB_200_2011"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        root = inside(Path(location).expanduser(), "CUB_200_2011")
        train = choose(split, {"train": "1", "val": "0", "test": "0"}, "cub")
        tables = {
            name: pairs(root / f"{name}.txt", f"lines of <{key}> <{value}>", "cub")
            for name, key, value in (
                ("classes", "class id", "class name"),
                ("images", "image id", "path below images/"),
                ("image_class_labels", "image id", "class id"),
                ("train_test_split", "image id", "1 for training"),
            )
        }
        species = dict(tables["classes"])
        if set(species) != {str(number + 1) for number in range(len(species))}:
            raise DataError(f"{root / 'classes.txt'}: expected the class ids 1 to 200, each once")
        names = [species[str(number + 1)] for number in range(len(species))]
        tree = taxonomies.cub([name.partition(".")[2].replace("_", " ") or name for name in names])
        label, use = dict(tables["image_class_labels"]), dict(tables["train_test_split"])
        for file, column in (("image_class_labels.txt", label), ("train_test_split.txt", use)):
            lacking = [number for number, _ in tables["images"] if number not in column]
            if lacking:
                raise DataError(f"{root / file} lacks {len(lacking)} images of images.txt, as {lacking[0]}")
        strange = sorted(set(label.values()) - set(species))
        if strange:
            raise DataError(
                f"{root / 'image_class_labels.txt'} has classes that classes.txt lacks: {strange[:5]}"
            )
        chosen = [(file, int(label[number]) - 1) for number, file in tables["images"] if use[number] == train]
        if not chosen:
            place = root / "train_test_split.txt"
            raise DataError(f"{place} has no image with {train}; is it the right file?")
        folder = require(root / "images", "the folder of images", "cub")
        require(folder / chosen[0][0], "an image that images.txt names", "cub")
        targets = tree.paths()[torch.tensor([number for _, number in chosen])]
        return Listing(Files(folder, [file for file, _ in chosen]), targets, tree)
