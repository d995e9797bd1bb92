from __future__ import annotations

from pathlib import Path

import pytest
import torch

from castssl.datasets.csv_table import CsvTable
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from castssl.testing import datasets
from tests.datasets.tree_layouts import write_jpegs

ROWS = """\
path,order,split,family,species
img/1.jpg,song,train,crow,raven
img/2.jpg,song,train,crow,
img/3.jpg,prey,val,hawk,"buzzard, common"
img/7.jpg,prey,train,hawk,"buzzard, common"
img/4.jpg,song,train,lark,skylark
img/5.jpg,prey,train,,
img/6.jpg,song,test,lark,
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_jpegs(tmp_path, [f"img/{i}.jpg" for i in range(1, 8)])
    (tmp_path / "labels.csv").write_text(ROWS)
    return tmp_path / "labels.csv"


def _open(path: Path, split: str = "train") -> Images:
    images = open_images(f"tree:{path}", split=split)
    assert isinstance(images, Images)
    return images


def test_columns_are_levels_and_empty_cells_unknown(table: Path) -> None:
    train, val = _open(table), _open(table, "val")
    assert train.tree == val.tree
    assert train.tree.names == (
        ("prey", "song"),
        ("hawk", "crow", "lark"),
        ("buzzard, common", "raven", "skylark"),
    )
    assert train.targets is not None
    assert train.targets.tolist() == [[1, 1, 1], [1, 1, -1], [0, 0, 0], [1, 2, 2], [0, -1, -1]]
    assert [train.name(i) for i in range(5)] == [f"img/{i}.jpg" for i in (1, 2, 7, 4, 5)]
    assert val[0][1].tolist() == [0, 0, 0]
    assert _open(table, "test")[0][1].tolist() == [1, 2, -1]
    assert bool(train.tree.valid(train.targets).all())


def test_without_a_split_column_all_is_train(table: Path) -> None:
    table.write_text("\ufefffile,species\nimg/1.jpg,raven\nimg/2.jpg,lark\n", encoding="utf-8")
    train = _open(table)
    assert (len(train), train.tree.names) == (2, (("lark", "raven"),))
    with pytest.raises(DataError, match="has no val rows: its splits are train"):
        _open(table, "val")


def test_test_stands_in_for_val(table: Path) -> None:
    table.write_text(ROWS.replace(",val,", ",train,"))
    assert _open(table, "val").name(0) == "img/6.jpg"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (ROWS, "", "no rows, expected a header such as path,split"),
        ("path,order,split,family,species\n", "", r"begins with 'img/1.jpg,song.*expected a header"),
        ("lark,skylark", "lark", "line 6: 4 cells, expected 5"),
        ("song,train,lark", "song,trian,lark", "line 6: split 'trian', expected train, val or test"),
        ("train,crow,raven", "train,,raven", r"line 2: labels \('song', '', 'raven'\); a cell may only"),
        ("prey,train,,", ",train,,", "line 7: .*the coarsest must be known"),
        ("lark,skylark", "lark,", "1 classes of level 1 have no class below them, as 'song/lark'"),
        ("img/1.jpg", "img/0.jpg", "no image .*img/0.jpg; the first column"),
    ],
)
def test_what_is_wrong_is_named(table: Path, old: str, new: str, message: str) -> None:
    assert old in ROWS
    table.write_text(ROWS.replace(old, new))
    with pytest.raises(DataError, match=message):
        _open(table)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no table .*labels.csv"):
        _open(tmp_path / "labels.csv")


MANY = """\
path,split,photographer,tags
img/1.jpg,train,Ann,sea| boat |sea
img/2.jpg,train,Bob,
img/3.jpg,val,Ann,"boat"
img/4.jpg,train,Ann,wood, dark
"""


def test_a_column_of_label_names(table: Path) -> None:
    table.write_text(MANY.replace("wood, dark", '"wood, dark"'))
    data = CsvTable()
    train, val = (data.open(f"{table}?labels=tags", split) for split in ("train", "val"))
    assert data.target == "multihot"
    assert train.tree == val.tree
    assert (train.tree.names, train.tree.exclusive) == ((("boat", "sea", "wood, dark"),), False)
    assert train.targets.dtype == torch.float32
    assert train.targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert val.targets.tolist() == [[1, 0, 0]]
    assert [train.source.name(row) for row in range(3)] == [f"img/{number}.jpg" for number in (1, 2, 4)]
    for check in (datasets.check_conforms, datasets.check_many_labels, datasets.check_missing_location):
        check(f"csv:{table}?labels=tags")
    images = open_images(f"csv:{table}?bits=12&labels=tags")
    assert images.tree == train.tree


def test_a_column_of_label_names_that_is_wrong(table: Path) -> None:
    with pytest.raises(
        DataError, match=r"no column 'tags' of labels: its columns are path, order, split, fam"
    ):
        CsvTable().open(f"{table}?labels=tags", "train")
    table.write_text(MANY)
    with pytest.raises(DataError, match=r"unknown option 'label'; did you mean 'labels'"):
        CsvTable().open(f"{table}?label=tags", "train")
    with pytest.raises(DataError, match=r"line 5: 5 cells, expected 4"):
        CsvTable().open(f"{table}?labels=tags", "train")
    table.write_text("path,tags\nimg/1.jpg,\n")
    with pytest.raises(DataError, match=r"has no label in its column 'tags', expected names such as cat"):
        CsvTable().open(f"{table}?labels=tags", "train")
    table.write_text(MANY.replace("wood, dark", "").replace('"boat"', "ship"))
    with pytest.raises(DataError, match=r"the val rows .* classes that the train rows lack: .*ship"):
        CsvTable().open(f"{table}?labels=tags", "val")


def test_another_mark_between_label_names(table: Path) -> None:
    """A table by commas has no labels such as "sea, boat", unless that is said."""
    table.write_text('path,tags\nimg/1.jpg,"sea, boat"\nimg/2.jpg,boat\n')
    with pytest.raises(DataError, match=r"no cell has '|' .* 'sea, boat' has ','; write .*&between=, if"):
        CsvTable().open(f"{table}?labels=tags", "train")
    for between, names in ((",", ("boat", "sea")), ("|", ("boat", "sea, boat"))):
        found = CsvTable().open(f"{table}?labels=tags&between={between}", "train")
        assert found.tree.names == (names,)
    images = open_images(f"csv:{table}?labels=tags&between=,&bits=12")
    assert images.tree.names == (("boat", "sea"),)
    with pytest.raises(DataError, match="has the option 'betwen', expected labels=COLUMN and between=MARK"):
        CsvTable().open(f"{table}?labels=tags&betwen=,", "train")
