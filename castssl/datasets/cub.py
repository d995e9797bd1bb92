"""CUB-200-2011 as distributed: bird species, with the families and orders above them."""

from __future__ import annotations

from pathlib import Path

import torch

from castssl.contracts import DataSet, Listing
from castssl.datasets import taxonomies
from castssl.datasets.folder import Files
from castssl.datasets.layout_checks import choose, inside, pairs, require
from castssl.errors import DataError


class Cub(DataSet):
    """CUB-200-2011 (Wah et al., 2011): the folder ``CUB_200_2011`` or its parent.

    Val and test are both the test split.  Targets (order, family, species); a species' index is its number in
    ``classes.txt`` less one.  The files number images and classes from 1, and none promises an order: they
    are joined by image id.

    Raises:
        DataError: if a file is missing, the files disagree, or there are not 200 classes.
    """

    location = "/path/to/CUB_200_2011"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        root = inside(Path(location).expanduser(), "CUB_200_2011")
        train = choose(split, {"train": "1", "val": "0", "test": "0"}, "cub")
        species, images, label, use = (
            dict(pairs(root / f"{name}.txt", f"lines of <{key}> <{value}>", "cub"))
            for name, key, value in (
                ("classes", "class id", "class name"),
                ("images", "image id", "path below images/"),
                ("image_class_labels", "image id", "class id"),
                ("train_test_split", "image id", "1 for training"),
            )
        )
        numbers = [str(number) for number in range(1, len(species) + 1)]
        if set(species) != set(numbers):
            raise DataError(f"{root / 'classes.txt'}: expected the class ids 1 to 200, each once")
        names = [species[number] for number in numbers]
        tree = taxonomies.cub([name.partition(".")[2].replace("_", " ") or name for name in names])
        for file, column in (("image_class_labels.txt", label), ("train_test_split.txt", use)):
            lacking = [number for number in images if number not in column]
            if lacking:
                raise DataError(f"{root / file} lacks {len(lacking)} images of images.txt, as {lacking[0]}")
        unknown = sorted(set(label.values()) - set(species))
        if unknown:
            raise DataError(
                f"{root / 'image_class_labels.txt'} has classes that classes.txt lacks: {unknown[:5]}"
            )
        chosen = {number: file for number, file in images.items() if use[number] == train}
        if not chosen:
            raise DataError(
                f"{root / 'train_test_split.txt'} has no image with {train}; is it the right file?"
            )
        folder, files = root / "images", list(chosen.values())
        require(folder / files[0], "an image that images.txt names", "cub")
        targets = tree.paths()[torch.tensor([int(label[number]) - 1 for number in chosen])]
        return Listing(Files(folder, files), targets, tree)
