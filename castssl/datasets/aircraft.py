"""FGVC-Aircraft 2013b as distributed: manufacturer, family and variant."""

from __future__ import annotations

from pathlib import Path

from castssl.contracts import DataSet, Listing
from castssl.datasets import taxonomies
from castssl.datasets.folder import Files
from castssl.datasets.layout_checks import choose, inside, pairs, require
from castssl.errors import DataError

LEVELS = ("manufacturer", "family", "variant")


class Aircraft(DataSet):
    """FGVC-Aircraft 2013b (Maji et al., 2013): ``fgvc-aircraft-2013b``, its ``data``, or its parent folder.

    Targets (manufacturer, family, variant), numbered by :func:`castssl.datasets.taxonomies.aircraft`.  The
    tree is that of both splits; train is trainval as for H-CAST; val and test are both the test split.

    Raises:
        DataError: if a file is missing, or the lists disagree or spell no tree.
    """

    location = "/path/to/fgvc-aircraft-2013b"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        root = inside(inside(Path(location).expanduser(), "fgvc-aircraft-2013b"), "data")
        part = choose(split, {"train": "trainval", "val": "test", "test": "test"}, "aircraft")
        paths = {name: self._paths(root, name) for name in ("trainval", "test")}
        tree = taxonomies.aircraft([path for images in paths.values() for path in images.values()])
        folder, files = root / "images", [f"{number}.jpg" for number in paths[part]]
        require(folder / files[0], f"an image that images_variant_{part}.txt names", "aircraft")
        return Listing(Files(folder, files), tree.number(list(paths[part].values())), tree)

    def _paths(self, root: Path, part: str) -> dict[str, tuple[str, str, str]]:
        """The names of each image of a split, by image id, in the order of the variants' list."""
        files = {level: root / f"images_{level}_{part}.txt" for level in LEVELS}
        makers, families, variants = names = [
            dict(pairs(file, f"lines of <image id> <{level}>", "aircraft")) for level, file in files.items()
        ]
        for file, images in zip(files.values(), names, strict=True):
            if differing := sorted(images.keys() ^ variants.keys()):
                raise DataError(
                    f"{file} and {files['variant']} list different images: {len(differing)} are in one only,"
                    f" as {differing[0]}; copy the lists again"
                )
        return {number: (makers[number], families[number], variants[number]) for number in variants}
