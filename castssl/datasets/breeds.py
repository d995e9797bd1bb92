"""BREEDS: two-level classes out of an ImageNet folder, chosen by WordNet id (Santurkar et al., 2021).

Read as ``<root>/{train,val}/<wnid>/*.JPEG``.  No file lists are needed: the packaged tables say which wnids
make up which class.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from castssl.contracts import DataSet, Listing
from castssl.datasets import taxonomies
from castssl.datasets.folder import Files, is_image
from castssl.datasets.layout_checks import HOMES, choose, require
from castssl.errors import DataError


class ImageNetBreeds(DataSet):
    """Two levels of classes of an ImageNet folder: ``living17:/path/to/imagenet`` and the like.

    ``living17-target:...`` has the held-out sub-populations.

    Targets (coarse, fine), images grouped by fine class and then by name.

    Raises:
        DataError: if there is no such data set, or a class of it has no folder or no image.
    """

    location = "living17:/path/to/imagenet"
    splits = ("train", "val")

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        called, _, path = location.partition(":")
        if not path:
            raise DataError(f"breeds:{location} names no folder; expected breeds:living17:/path/to/imagenet")
        wanted = taxonomies.breeds(called)
        root = Path(path).expanduser()
        word = choose(split, {"train": "train", "val": "val"}, f"breeds:{called}")
        folder = require(root / word, f"ImageNet as {root / word}/<wnid>/*.JPEG", "imagenet")
        _check(folder, called, wanted)
        files: list[str] = []
        counts = []
        for wnid in wanted.wnids:
            own = sorted(entry.name for entry in os.scandir(folder / wnid) if is_image(entry.name))
            counts.append(len(own))
            files += [f"{wnid}/{file}" for file in own]
        if not all(counts):
            empty = [wnid for wnid, count in zip(wanted.wnids, counts, strict=True) if not count]
            raise DataError(f"{len(empty)} class folders of {folder} hold no image: {', '.join(empty[:5])}")
        targets = wanted.tree.paths().repeat_interleave(torch.tensor(counts), dim=0)
        return Listing(Files(folder, files), targets, wanted.tree)


def _check(folder: Path, called: str, wanted: taxonomies.Breeds) -> None:
    missing = [
        f"{wnid} ({name})"
        for wnid, name in zip(wanted.wnids, wanted.tree.names[-1], strict=True)
        if not (folder / wnid).is_dir()
    ]
    if not missing:
        return
    inside = list(os.scandir(folder))
    if not any(entry.is_dir() for entry in inside) and any(is_image(entry.name) for entry in inside):
        raise DataError(
            f"the images lie flat in {folder}, expected one folder a class as {folder / wanted.wnids[0]};"
            " sort them into folders by the validation ground truth of ImageNet's development kit"
        )
    raise DataError(
        f"{folder} lacks {len(missing)} of the {len(wanted.wnids)} class folders of {called}:"
        f" {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; expected {folder}/<wnid>/*.JPEG."
        f" ImageNet is to be had at {HOMES['imagenet']}"
    )
