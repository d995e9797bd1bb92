from __future__ import annotations

from pathlib import Path

import pytest

from castssl import registry
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.datasets.image_files import write


@pytest.mark.parametrize(("spec", "hint"), [("zip:/x", ":"), ("foldr:/x", r"; did you mean 'folder'\?")])
def test_an_unknown_name_learns_of_all(spec: str, hint: str) -> None:
    with pytest.raises(DataError, match=f"unknown data '{spec}'{hint} expected NAME:LOCATION") as caught:
        open_images(spec)
    assert all(f" {entry.name}" in str(caught.value) for entry in registry.names("datasets"))


@pytest.mark.parametrize("spec", ["breeds", "breeds:"])
def test_a_name_without_its_location_is_refused(spec: str) -> None:
    with pytest.raises(DataError, match="breeds has no location: expected breeds:living17:/path"):
        open_images(spec)


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


@pytest.mark.parametrize("spec", ["tree:{}?labelz=a", "csv:{}?labelz=a", "csv:{}?bits=8&labelz=a"])
def test_an_unknown_option_of_a_table_is_named(tmp_path: Path, spec: str) -> None:
    (tmp_path / "a.csv").write_text("a.png,cat\n")
    with pytest.raises(DataError, match="unknown option 'labelz'"):
        open_images(spec.format(tmp_path / "a.csv"))


def test_an_option_of_a_published_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown option 'foo': expected range, bits"):
        open_images(f"cub:{tmp_path}?foo=1")
