from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.datasets.tree_layouts import INAT, write_inat


def _open(path: Path, split: str = "train") -> Images:
    images = open_images(f"inat21-mini:{path}", split=split)
    assert isinstance(images, Images)
    return images


def test_orders_and_families_are_numbered_as_the_species_meet_them(tmp_path: Path) -> None:
    train, val = _open(write_inat(tmp_path)), _open(tmp_path, "val")
    assert train.tree == val.tree
    assert train.tree.names == (
        ("Lepidoptera", "Accipitriformes", "Passeriformes"),
        ("Pieridae", "Accipitridae", "Erebidae", "Corvidae", "Alaudidae"),
        ("Pieris rapae", "Buteo jamaicensis", "Arctia caja", "Corvus corax", "Alauda arvensis"),
    )
    assert (len(train), len(val)) == (10, 5)
    assert val.targets is not None
    assert val.targets.tolist() == [[0, 0, 0], [1, 1, 1], [0, 2, 2], [2, 3, 3], [2, 4, 4]]
    assert val.name(4).startswith("00010_Animalia")
    assert train[9][1].tolist() == [2, 4, 4]


def test_a_class_without_images_in_val_keeps_its_number(tmp_path: Path) -> None:
    write_inat(tmp_path)
    shutil.rmtree(tmp_path / "val" / INAT[1])
    val = _open(tmp_path, "val")
    assert len(val) == 4
    assert val[0][1].tolist() == [1, 1, 1]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train_mini, expected the folders <id>_<kingdom>.*inat_comp"):
        _open(tmp_path)
    write_inat(tmp_path, train=1)
    with pytest.raises(DataError, match="no test split with labels, expected train or val"):
        _open(tmp_path, "test")
    (tmp_path / "val" / "00011_Animalia_Chordata_Aves_Piciformes_Picidae_Picus_viridis").mkdir()
    with pytest.raises(DataError, match=r"1 classes that .*train_mini lacks, as 00011_"):
        _open(tmp_path, "val")
    (tmp_path / "train_mini" / "sparrows").mkdir()
    with pytest.raises(DataError, match=r"1 class folders that are not called <id>.*, such as sparrows"):
        _open(tmp_path)


def test_a_family_in_two_orders(tmp_path: Path) -> None:
    write_inat(tmp_path, [*INAT, "00012_Animalia_Chordata_Aves_Piciformes_Corvidae_Corvus_corone"])
    with pytest.raises(DataError, match="'Corvidae' of level 1 lies below 'Passeriformes' and below"):
        _open(tmp_path)
