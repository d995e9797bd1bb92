"""FGVC-Aircraft 2013b as distributed (Maji et al., 2013): manufacturer, family and variant."""

from __future__ import annotations

from pathlib import Path

import torch

from castssl.contracts import DataSet, Listing
from castssl.datasets import taxonomies
from castssl.datasets.folder import Files
from castssl.datasets.layout_checks import choose, inside, pairs, require
from castssl.errors import DataError

LEVELS = ("manufacturer", "family", "variant")


class Aircraft(DataSet):
    """Aircraft of FGVC-Aircraft 2013b: the folder ``fgvc-aircraft-2013b``, its ``data``, or what holds it.

    Targets (manufacturer, family, variant), numbered as :func:`castssl.datasets.taxonomies.aircraft` says.
    The tree is that of both splits; train is trainval as for H-CAST; val and test are both the test split.

    Raises:
        DataError: if a file is missing, or the lists disagree or spell no tree.
    """

    location = "/path/to/fgvc-aircraft-2013b"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        root = inside(inside(Path(location).expanduser(), "fgvc-aircraft-2013b"), "data")
        asked = choose(split, {"train": "trainval", "val": "test", "test": "test"}, "aircraft")
        paths = {part: _paths(root, part) for part in ("trainval", "test")}
        tree = taxonomies.aircraft([path for part in paths.values() for path in part.values()])
        folder = require(root / "images", "the folder of images", "aircraft")
        files = [f"{number}.jpg" for number in paths[asked]]
        require(folder / files[0], f"an image that images_variant_{asked}.txt names", "aircraft")
        fine = {name: number for number, name in enumerate(tree.names[-1])}
        targets = tree.paths()[torch.tensor([fine[variant] for _, _, variant in paths[asked].values()])]
        return Listing(Files(folder, files), targets, tree)


def _paths(root: Path, part: str) -> dict[str, tuple[str, str, str]]:
    """The names of each image of a split, by image id, in the order of the variants' list."""
    files = {level: root / f"images_{level}_{part}.txt" for level in LEVELS}
    found = {
        level: dict(pairs(file, f"lines of <image id> <{level}>", "aircraft"))
        for level, file in files.items()
    }
    for level in LEVELS:
        differing = sorted(found[level].keys() ^ found["variant"].keys())
        if differing:
            raise DataError(
                f"{files[level]} and {files['variant']} list different images: {len(differing)} are in one"
                f" only, as {differing[0]}; copy the lists anew"
            )
    return {
        number: (found["manufacturer"][number], found["family"][number], variant)
        for number, variant in found["variant"].items()
    }
