"""Tables of labels as spreadsheets and pandas write them, and classes of one name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.acceptance.conftest import Command

ROWS = [
    ["path", "split", "kind", "species"],
    ["a.png", "train", "Vögel", "Kauz, groß"],
    ["b.png", "train", "Fische", "Aal"],
    ["c.png", "val", "Vögel", "Kauz, groß"],
]
NAMES = (("Fische", "Vögel"), ("Aal", "Kauz, groß"))


def write(folder: Path, content: bytes) -> Path:
    """The table beside the images that it names."""
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "labels.csv").write_bytes(content)
    return folder / "labels.csv"


def table(separator: str = ",", index: str | None = None) -> str:
    """The rows as text; with a first column that counts them, headed ``index``."""
    rows = ROWS if index is None else [[index, *ROWS[0]], *([str(i), *row] for i, row in enumerate(ROWS[1:]))]
    quoted = [[f'"{cell}"' if separator in cell else cell for cell in row] for row in rows]
    return "".join(separator.join(row) + "\r\n" for row in quoted)


def opened(spec: str, split: str = "train") -> Images:
    """A data set that is not a stream."""
    images = open_images(spec, split=split)
    assert isinstance(images, Images)
    return images


@pytest.mark.parametrize(
    "content",
    [
        table().encode("utf-8"),
        table().encode("utf-8-sig"),
        table().encode("latin-1"),
        table().encode("utf-16"),
        table(";").encode("utf-16-le"),
        table(";").encode("cp1252"),
        table("\t").encode("utf-16"),
        table("|").encode(),
        ("sep=;\r\n" + table(";")).encode(),
        table(index="").encode(),
        table(";", index="Unnamed: 0").encode("latin-1"),
    ],
)
def test_a_table_is_read_as_programs_write_it(tmp_path: Path, content: bytes, command: Command) -> None:
    path = write(tmp_path, content)
    train, val = opened(f"tree:{path}"), opened(f"tree:{path}", "val")
    assert train.tree.names == val.tree.names == NAMES
    assert [train[i][1].tolist() for i in range(2)] == [[1, 1], [0, 0]]
    assert [val.name(0), val[0][1].tolist()] == ["c.png", [1, 1]]
    shown = command("tree", f"tree:{path}")
    assert "Kauz, groß" in shown.out
    assert "Traceback" not in shown.err


def test_a_table_that_is_none_is_refused_in_words(tmp_path: Path, command: Command) -> None:
    shown = command("tree", f"tree:{write(tmp_path, bytes(range(256)) * 3)}")
    assert shown.code == 1
    assert "labels.csv" in shown.err
    assert "Traceback" not in shown.err


def test_a_list_of_classes_may_be_in_utf_16(tmp_path: Path) -> None:
    path = write(tmp_path, table().encode())
    (tmp_path / "some.txt").write_bytes("Kauz, groß\r\n".encode("utf-16"))
    images = open_images(f"tree:{path}", subset=str(tmp_path / "some.txt"))
    assert images.tree.names == (("Vögel",), ("Kauz, groß",))


def test_one_name_below_two_parents_is_two_classes_in_folders_and_tables(tmp_path: Path) -> None:
    leaves = ["fruit/orange", "color/orange", "color/red", "fruit/apple"]
    lines = ["path,kind,name"]
    for number, leaf in enumerate(leaves):
        (tmp_path / "set" / leaf).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / leaf / f"{number}.png")
        lines.append(f"set/{leaf}/{number}.png,{leaf.replace('/', ',')}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    folders = [opened(f"{kind}:{tmp_path / 'set'}") for kind in ("folder", "tree")]
    listed = opened(f"tree:{tmp_path / 'labels.csv'}")
    assert listed.tree == folders[0].tree == folders[1].tree
    assert listed.tree.sizes == (2, 4)
    labels = {Path(listed.name(i)).name: listed[i][1].tolist() for i in range(4)}
    assert labels == {Path(folders[0].name(i)).name: folders[0][i][1].tolist() for i in range(4)}
    assert len({tuple(path) for path in labels.values()}) == 4


def test_a_class_that_the_train_rows_lack_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write(tmp_path, table().replace("val,Vögel", "val,Lurche").encode())
    assert opened(f"tree:{path}").tree.names == NAMES
    with pytest.raises(DataError, match=r"val rows .* lack: 1 classes .*Lurche/Kauz, groß"):
        open_images(f"tree:{path}", split="val")


def test_finer_classes_that_no_train_row_names_are_those_of_other_rows(tmp_path: Path) -> None:
    path = write(tmp_path, table().replace('train,Vögel,"Kauz, groß"', "train,Vögel,").encode())
    train = opened(f"tree:{path}")
    assert train.tree.names == NAMES
    assert train.targets.tolist() == [[1, -1], [0, 0]]
    assert opened(f"tree:{path}", "val").targets.tolist() == [[1, 1]]
