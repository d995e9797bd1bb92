"""BREEDS: two-level classes out of an ImageNet folder, chosen by WordNet id."""

from __future__ import annotations

import os
from pathlib import Path

from castssl.contracts import DataSet, Listing
from castssl.datasets import taxonomies
from castssl.datasets.file_names import is_image
from castssl.datasets.folder import Files
from castssl.datasets.layout_checks import HOMES, choose, list_classes, require
from castssl.datasets.left_out import some
from castssl.errors import DataError


class ImageNetBreeds(DataSet):
    """BREEDS: two-level classes of an ImageNet folder, such as ``living17:/path/to/imagenet``.

    Read as ``<root>/{train,val}/<wnid>/*.JPEG`` (Santurkar et al., 2021).  No file lists are needed: packaged
    tables give the WordNet ids of each class.  ``living17-target:...`` has the held-out sub-populations.

    Targets (coarse, fine), images grouped by fine class and then by name.

    Raises:
        DataError: if there is no such data set, or a class of it has no folder or no image.
    """

    location = "living17:/path/to/imagenet"
    splits = ("train", "val")

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        name, _, path = location.partition(":")
        if not path:
            raise DataError(f"breeds:{location} names no folder; expected breeds:living17:/path/to/imagenet")
        breeds = taxonomies.breeds(name)
        root = Path(path).expanduser()
        word = choose(split, {"train": "train", "val": "val"}, f"breeds:{name}")
        folder = require(root / word, f"ImageNet as {root / word}/<wnid>/*.JPEG", "imagenet")
        missing = [
            f"{wnid} ({name})"
            for wnid, name in zip(breeds.wnids, breeds.tree.names[-1], strict=True)
            if not (folder / wnid).is_dir()
        ]
        if missing and any(is_image(entry.name) for entry in os.scandir(folder)):
            raise DataError(
                f"the images lie flat in {folder}, expected one folder a class as {folder / breeds.wnids[0]};"
                " sort them into folders by the validation ground truth of ImageNet's development kit"
            )
        if missing:
            raise DataError(
                f"{folder} lacks {len(missing)} of the {len(breeds.wnids)} class folders of {name}:"
                f" {some(missing)}; expected {folder}/<wnid>/*.JPEG. Download ImageNet from"
                f" {HOMES['imagenet']}"
            )
        files, counts = list_classes(folder, breeds.wnids)
        empty = [wnid for wnid, count in zip(breeds.wnids, counts.tolist(), strict=True) if not count]
        if empty:
            raise DataError(f"{len(empty)} class folders of {folder} hold no image: {some(empty)}")
        return Listing(Files(folder, files), breeds.tree.paths().repeat_interleave(counts, 0), breeds.tree)
