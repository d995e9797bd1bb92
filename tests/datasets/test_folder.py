from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.datasets import folder as folders
from castssl.errors import DataError
from tests.datasets.image_files import write


@pytest.mark.parametrize(
    ("there", "asked", "found"),
    [
        (["train", "val"], "train", "train"),
        (["train", "val"], "val", "val"),
        (["train", "validation"], "val", "validation"),
        (["train", "valid"], "val", "valid"),
        (["train", "test"], "val", "test"),
        (["train", "val", "test"], "test", "test"),
        (["train2017", "val2017", "annotations"], "val", "val2017"),
        (["Training", "Validation"], "train", "Training"),
        (["train"], "train", "train"),
        (["train", "masks"], "train", "train"),
        (["cats", "dogs"], "train", "."),
        (["train", "bus", "car"], "train", "."),
        (["validators", "trains"], "train", "."),
    ],
)
def test_finds_the_split(tmp_path: Path, there: list[str], asked: str, found: str) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    split = folders.find_split(tmp_path, asked)
    assert split.folder == tmp_path / found
    assert (split.train is None) == (found == ".")
    assert asked != "train" or split.train in (None, split.folder)


@pytest.mark.parametrize(
    ("there", "asked", "words"),
    [
        (["cats", "dogs"], "val", ["cats, dogs", "val or test"]),
        (["train"], "val", ["train", "val or test"]),
        (["val", "test"], "train", ["train"]),
        (["train", "val2014", "val2017"], "val", ["several", "val2014, val2017"]),
        ([], "test", ["test"]),
    ],
)
def test_says_which_split_is_missing(tmp_path: Path, there: list[str], asked: str, words: list[str]) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError) as caught:
        folders.find_split(tmp_path, asked)
    assert all(word in str(caught.value) for word in [str(tmp_path), *words])


def test_says_how_far_a_missing_path_exists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"exists up to {tmp_path}:"):
        folders.find_split(tmp_path / "no" / "such", "train")
    (tmp_path / "x.tar").touch()
    with pytest.raises(DataError, match=f"did you mean tar:{tmp_path}/x.tar"):
        folders.find_split(tmp_path / "x.tar", "train")


def test_finds_masks_in_both_places(tmp_path: Path) -> None:
    for name in ("set/train", "set/val", "set/masks/train", "flat/cats", "flat/masks/train"):
        (tmp_path / name).mkdir(parents=True)
    assert folders.find_split(tmp_path / "set", "train").masks == tmp_path / "set/masks/train"
    assert folders.find_split(tmp_path / "set/train", "train").masks == tmp_path / "set/masks/train"
    assert folders.find_split(tmp_path / "set", "val").masks is None
    assert folders.find_split(tmp_path / "flat", "train").masks == tmp_path / "flat/masks/train"


def test_finds_images_and_nothing_else(tmp_path: Path) -> None:
    write(
        tmp_path, ["b/2.png", "b/10.jpg", "a/x.JPEG", "a/y.webp", "masks/a/x.png", ".git/z.png", "a/._y.png"]
    )
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "b", tmp_path / "elsewhere" / "linked")
    assert folders.look_through(tmp_path).names == [
        "a/x.JPEG",
        "a/y.webp",
        "b/10.jpg",
        "b/2.png",
        "elsewhere/linked/10.jpg",
        "elsewhere/linked/2.png",
    ]


def test_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, ["a/1.png", "b/2.png"])
    for link, target in {"a/up": ".", "a/self": "a", "a/over": "b", "b/back": "a"}.items():
        os.symlink(tmp_path / target, tmp_path / link)
    os.symlink(tmp_path / "nowhere", tmp_path / "a/dangling")
    names = folders.look_through(tmp_path).names
    assert names == ["a/1.png", "a/over/2.png", "b/2.png", "b/back/1.png"]


def test_files_know_their_places(tmp_path: Path) -> None:
    write(tmp_path, ["a/1.png"])
    files = folders.Files(tmp_path, ["a/1.png"])
    assert (files.name(0), files.path(0)) == ("a/1.png", str(tmp_path / "a/1.png"))
    with files.open(0) as file:
        assert file.read() == (tmp_path / "a/1.png").read_bytes()


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=r"holds no images.*\.jpg"):
        folders.look_through(tmp_path)


def test_different_depths_mean_unlabeled() -> None:
    assert folders.same_depth([("a",), ("b",)]) == [("a",), ("b",)]
    with pytest.warns(UserWarning, match=r"different depths \(\* and a/b/\*\).*unlabeled"):
        assert folders.same_depth([("a",), (), ("a", "b")]) == [(), (), ()]


def test_lists_class_folders_of_a_depth(tree: Path) -> None:
    expected = {("animal", "cat"), ("animal", "dog"), ("plant", "oak")}
    assert folders.class_folders(tree / "train", 2) == expected
    assert folders.class_folders(tree / "train", 1) == {("animal",), ("plant",)}


def test_the_train_split_says_which_classes_there_are(tree: Path) -> None:
    val = folders.find_split(tree, "val")
    classes = {("animal", "cat"), ("plant", "oak")}
    assert folders.classes_of(val, classes) == classes | {("animal", "dog")}
    with pytest.raises(DataError, match=r"val has 1 classes that .*train lacks: animal/cow"):
        folders.classes_of(val, classes | {("animal", "cow")})
    with pytest.warns(UserWarning, match="no class folders"):
        assert folders.classes_of(val, {()}) == {()}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)))
def test_packed_names_come_back(names: list[str]) -> None:
    packed = folders.pack(names)
    assert [os.fsdecode(bytes(name)) for name in packed] == names
