"""iNaturalist 2021 mini as distributed: the names of the class folders give the taxonomy."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from castssl.contracts import DataSet, Listing
from castssl.datasets import taxonomies
from castssl.datasets.file_names import ignored
from castssl.datasets.folder import Files
from castssl.datasets.layout_checks import HOMES, choose, list_classes, require
from castssl.errors import DataError
from castssl.labels import LabelTree

FOLDER = "<id>_<kingdom>_<phylum>_<class>_<order>_<family>_<genus>_<species>"


class Inat21Mini(DataSet):
    """iNaturalist 2021 mini: the folder that holds ``train_mini/`` and ``val/``; train is ``train_mini``.

    The names of the class folders give the taxonomy.  Targets (order, family, species): species by their id,
    families and orders in the order of their first species, as in the tree published with H-CAST.  The
    classes are those of ``train_mini`` for both splits.

    Raises:
        DataError: if a folder is missing or has another kind of name, or a family lies in two orders.
    """

    location = "/path"
    splits = ("train", "val")

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        root = Path(location).expanduser()
        word = choose(split, {"train": "train_mini", "val": "val"}, "inat21-mini")
        train, folder = (
            require(root / name, f"the folders {FOLDER}", "inat21-mini") for name in ("train_mini", word)
        )
        classes = self._classes(train)
        unknown = [name for name in self._classes(folder) if name not in classes]
        if unknown:
            raise DataError(f"{folder} has {len(unknown)} classes that {train} lacks, as {unknown[0]}")
        paths = [(parts[4], parts[5], name) for name, parts in classes.items()]
        taxonomies.check_parents(paths)
        tree = LabelTree.from_paths(paths, first_seen=True)
        species = tuple(" ".join(parts[6:]) for parts in classes.values())
        tree = replace(tree, names=(*tree.names[:2], species))
        files, counts = list_classes(folder, classes)
        if not files:
            raise DataError(
                f"the class folders of {folder} hold no image; check that it is completely unpacked"
            )
        return Listing(Files(folder, files), tree.paths().repeat_interleave(counts, 0), tree)

    def _classes(self, folder: Path) -> dict[str, list[str]]:
        """The parts of each class folder's name, by id."""
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not ignored(entry.name)]
        parts = {name: name.split("_", 7) for name in names}
        wrong = sorted(name for name, part in parts.items() if len(part) < 8 or not part[0].isdigit())
        if wrong or not names:
            example = f"such as {wrong[0]}" if wrong else "none"
            raise DataError(
                f"{folder} has {len(wrong)} class folders that are not called {FOLDER}, {example}; download"
                f" the data set from {HOMES['inat21-mini']}"
            )
        return dict(sorted(parts.items(), key=lambda item: int(item[1][0])))
