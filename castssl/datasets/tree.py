"""Class folders that must spell a label tree, or a table of labels."""

from __future__ import annotations

from pathlib import Path

from castssl.contracts import Listing
from castssl.datasets.csv_table import CsvTable
from castssl.datasets.folder import Folder
from castssl.errors import DataError


class Tree(Folder):
    """Class folders that must spell a label tree, or a table of labels (``.csv``)."""

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        place = Path(location).expanduser()
        if place.suffix.lower() == ".csv" and not place.is_dir():
            return CsvTable().open(location, split)
        return super().open(location, split)

    def class_paths(self, folder: Path, files: list[str]) -> list[tuple[str, ...]]:
        """The class folders of each image.

        Raises:
            DataError: if the images lie at different depths, or in no class folder.
        """
        by_depth = {name.count("/"): name for name in files}
        if len(by_depth) > 1 or 0 in by_depth:
            examples = " and ".join(by_depth[depth] for depth in sorted(by_depth))
            raise DataError(
                f"the images in {folder} do not lie equally deep in class folders: {examples}; put each into"
                " as many folders as there are label levels, or give a table as tree:labels.csv"
            )
        return super().class_paths(folder, files)
