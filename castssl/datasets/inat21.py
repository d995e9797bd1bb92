"""iNaturalist 2021 mini as distributed: the taxonomy stands in the names of the class folders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from castssl.contracts import DataSet, Listing
from castssl.datasets import taxonomies
from castssl.datasets.folder import Files, ignored, is_image
from castssl.datasets.layout_checks import HOMES, choose, require
from castssl.errors import DataError
from castssl.types import LabelTree

FOLDER = "<id>_<kingdom>_<phylum>_<class>_<order>_<family>_<genus>_<species>"


class Inat21Mini(DataSet):
    """iNaturalist 2021 mini: the folder that holds ``train_mini/`` and ``val/``; train is ``train_mini``.

    Targets (order, family, species): species by their id, families and orders in the order in which they
    are first met among the species, as the tree published with H-CAST numbers them.  The classes are those
    of ``train_mini`` for both splits.

    Raises:
        DataError: if a folder is missing or named otherwise, or a family lies in two orders.
    """

    location = "/path"
    splits = ("train", "val")

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        root = Path(location).expanduser()
        word = choose(split, {"train": "train_mini", "val": "val"}, "inat21-mini")
        holds = f"the folders {FOLDER}"
        train = require(root / "train_mini", holds, "inat21-mini")
        folder = require(root / word, holds, "inat21-mini")
        classes = _classes(train)
        strange = [name for name in _classes(folder) if name not in classes]
        if strange:
            raise DataError(f"{folder} has {len(strange)} classes that {train} lacks, as {strange[0]}")
        tree = _tree(classes)
        files: list[str] = []
        counts = []
        for name in classes:
            own = sorted(os.listdir(folder / name)) if (folder / name).is_dir() else []
            own = [file for file in own if is_image(file)]
            counts.append(len(own))
            files += [f"{name}/{file}" for file in own]
        if not files:
            raise DataError(f"the class folders of {folder} hold no image; check that it is unpacked whole")
        targets = tree.paths().repeat_interleave(torch.tensor(counts), dim=0)
        return Listing(Files(folder, files), targets, tree)


def _classes(folder: Path) -> dict[str, tuple[str, ...]]:
    """The parts of each class folder's name, by id."""
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not ignored(entry.name)]
    parts = {name: tuple(name.split("_", 7)) for name in names}
    wrong = sorted(name for name, own in parts.items() if len(own) < 8 or not own[0].isdigit())
    if wrong or not names:
        found = f"such as {wrong[0]}" if wrong else "none"
        raise DataError(
            f"{folder} has {len(wrong)} class folders that are not called {FOLDER}, {found}; the data set is"
            f" to be had at {HOMES['inat21-mini']}"
        )
    return dict(sorted(parts.items(), key=lambda item: int(item[1][0])))


def _tree(classes: dict[str, tuple[str, ...]]) -> LabelTree:
    paths = [(own[4], own[5], name) for name, own in classes.items()]
    taxonomies.check_parents(paths)
    named = LabelTree.from_paths(paths, first_seen=True)
    species = tuple(f"{own[6]} {own[7]}" for own in classes.values())
    return replace(named, names=(*named.names[:2], species))
