from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest

from castssl.data import readers
from castssl.data.images import Images, open_images
from castssl.data.opening import OPENERS
from castssl.errors import DataError
from tests.data.pictures import write


def test_every_kind_is_opened_or_streamed() -> None:
    assert set(readers.KINDS) - set(OPENERS) == {"wds", "hfids", "tfds"}
    assert set(OPENERS) <= set(readers.KINDS)
    assert set(readers.TREES) <= set(OPENERS)
    assert all("Listing" in str(get_type_hints(opener)["return"]) for opener in OPENERS.values())


def test_an_unknown_kind_learns_of_all() -> None:
    with pytest.raises(DataError) as caught:
        open_images("bird:/x")
    assert all(f" {kind}:" in f" {caught.value}" for kind in readers.TREES)


def test_a_tree_of_folders_of_any_depth(tmp_path: Path) -> None:
    names = [f"{split}/b/{family}/{i}/{i}.png" for split in ("train", "val") for family in "xy" for i in "12"]
    write(tmp_path, [*names, "train/a/z/3/3.png"])
    train, val = (open_images(f"tree:{tmp_path}", split=split) for split in ("train", "val"))
    assert isinstance(train, Images)
    assert isinstance(val, Images)
    assert train.tree == val.tree
    assert train.tree.sizes == (2, 3, 5)
    assert train.tree.names[2] == ("3", "1", "2", "1", "2"), "classes are told apart by their whole path"
    assert train.tree.paths().tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 2], [1, 2, 3], [1, 2, 4]]
    assert val[3][1].tolist() == [1, 2, 4]


def test_a_tree_of_unequal_depth_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ["train/a/x/1.png", "train/b/2.png"])
    with pytest.raises(DataError, match=r"do not lie equally deep in class folders: b/2.png and a/x/1.png"):
        open_images(f"tree:{tmp_path}")
    flat = write(tmp_path / "flat", ["train/1.png"])
    with pytest.raises(DataError, match=r"do not lie equally deep in class folders: 1.png;"):
        open_images(f"tree:{flat}")
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        open_images(f"tree:{tmp_path}/nowhere")
