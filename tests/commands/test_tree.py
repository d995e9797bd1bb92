"""What ``castssl tree`` prints of data sets in their own layouts, and what it finds wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from castssl.cli import main
from castssl.datasets import taxonomies
from castssl.datasets.open import open_images
from castssl.datasets.tree_checks import findings
from tests.datasets.image_files import write
from tests.datasets.tree_layouts import AIRCRAFT, write_aircraft, write_cub, write_imagenet, write_inat

BIRDS = [(i + 1, i % 200 + 1, int(i < 200)) for i in range(400)]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    """The lines that the command prints, with single spaces and without branches."""
    found = main(["tree", *arguments])
    out, err = capsys.readouterr()
    assert found == code, out + err
    return [" ".join(line.split()).lstrip("│├└─ ") for line in (out + err).splitlines()]


def test_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "demo:size=32,per_class=5")
    assert lines[:4] == ["demo:size=32,per_class=5", "meadow 10 / 2", "butterfly 5 / 1", "sheep 5 / 1"]
    assert {"0 4 - 40 8", "1 8 2 40 8", "images 40 8", "nothing wrong"} <= set(lines)


def test_a_long_tree_is_shortened(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_cub(tmp_path, BIRDS)
    lines = shown(capsys, f"cub:{tmp_path}")
    assert {"2 200 1 to 30 200 200", "1 38 1 to 21 200 200", "... and 7 more"} <= set(lines)
    assert len(lines) < 60
    assert "note classes of level 1 with one child only: Rissa" in "\n".join(lines)
    whole = shown(capsys, f"cub:{tmp_path}", "--all")
    assert sum(line.startswith("Bird No ") for line in whole) == 200
    assert not any("more" in line for line in whole)


def test_other_layouts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_imagenet(tmp_path / "in", dict.fromkeys(taxonomies.breeds("living17-target").wnids, (2, 1)))
    lines = shown(capsys, f"breeds:living17-target:{tmp_path}/in")
    assert {"1 34 2 68 34", "nothing wrong", "common newt, Triturus vulgaris 2 / 1"} <= set(lines)
    write_inat(tmp_path / "inat")
    lines = shown(capsys, f"inat21-mini:{tmp_path}/inat")
    assert {"2 5 1 10 5", "note level 2 repeats level 1: each class has one child"} <= set(lines)
    write_aircraft(tmp_path, AIRCRAFT[:3], AIRCRAFT[3:])
    lines = shown(capsys, f"aircraft:{tmp_path}", f"inat21-mini:{tmp_path}/inat", code=1)
    assert "wrong 2 classes of level 2 have no image in train: A320, 707-320" in lines
    assert "2 5 1 10 5" in lines, "one bad data set does not hide the next"


def test_partial_labels_are_counted_by_level(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, [f"{i}.png" for i in range(4)])
    rows = ["file,split,kind,name", "0.png,train,a,x", "1.png,train,a,", "2.png,train,b,y", "3.png,val,b,"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    lines = shown(capsys, f"tree:{tmp_path}/t.csv")
    assert {"a 2 / 0", "x 1 / 0", "0 2 - 3 1", "1 2 1 2 0", "images 3 1"} <= set(lines)
    assert "note 2 classes of level 1 have no image in val: x, y" in lines


def test_many_labels_an_image_are_counted_by_class(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write(tmp_path, [f"{i}.png" for i in range(4)])
    rows = ["file,split,tags", "0.png,train,a|b", "1.png,train,", "2.png,train,b|c", "3.png,val,b"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    lines = shown(capsys, f"csv:{tmp_path}/t.csv?labels=tags")
    assert {"a 1 / 0", "b 2 / 1", "c 1 / 0", "0 3 - 4 1", "images 3 1"} <= set(lines)
    assert "note 2 classes of level 0 have no image in val: a, c" in lines


def test_names_are_no_markup_and_may_repeat(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, [f"train/{coarse}/[red]/1.png" for coarse in (":cat:", "b")])
    lines = shown(capsys, f"folder:{tmp_path}")
    assert {":cat: 1", "[red] 1", "note names of level 1 with several classes: [red]"} <= set(lines)
    assert any(line.startswith("note") and "has no val split" in line for line in lines)


def test_no_labels_break_training(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, ["1.png", "2.png"])
    lines = shown(capsys, f"folder:{tmp_path}", code=1)
    assert "wrong there are no labels: no folder, column or reader names a class" in lines
    assert "images 2" in lines


def test_val_with_other_classes_breaks_training(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"])
    lines = shown(capsys, f"folder:{tmp_path}", code=1)
    assert any(line.startswith("wrong") and "val has 1 classes that" in line for line in lines)


def test_a_missing_data_set_says_where_it_is_to_be_had(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = shown(capsys, f"cub:{tmp_path}", code=1)
    assert "castssl: there is no" in lines[0]
    assert "vision.caltech.edu" in lines[0]


def test_trees_that_differ(tmp_path: Path) -> None:
    sets = {"two": "ab", "three": "abc", "other": "xy"}
    opened = {
        name: open_images(f"folder:{write(tmp_path / name, [f'{c}/1.png' for c in classes])}")
        for name, classes in sets.items()
    }
    for name, text in (("three", "(2,) classes per level, val (3,)"), ("other", "differently: 'a' and 'x'")):
        found = findings(opened["two"], opened[name])
        assert [one.breaks for one in found if text in one.text] == [True]
    assert findings(opened["two"], opened["two"]) == []
    wide = write(tmp_path / "wide", ["a/x/1.png", "b/y/1.png", "b/z/1.png"])
    train = open_images(f"folder:{wide}")
    shutil.rmtree(wide)
    other = open_images(f"folder:{write(tmp_path / 'moved', ['a/x/1.png', 'a/y/1.png', 'b/z/1.png'])}")
    assert any("other parents" in one.text and one.breaks for one in findings(train, other))
    train.targets[0, 1] = 2  # type: ignore[union-attr]
    assert any("image 0: [0, 2]" in one.text and one.breaks for one in findings(train))


def test_hub_labels_are_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = write(
        tmp_path / "hub", [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in "12"]
    )
    lines = shown(capsys, f"hfds/{root}:{tmp_path}/cache")
    assert {"a 2 / 2", "0 2 - 4 4", "nothing wrong"} <= set(lines)
