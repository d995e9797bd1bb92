from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.datasets import folder as folders
from castssl.datasets.split_folders import find_split
from castssl.errors import DataError
from tests.datasets.image_files import write


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
    val = find_split(tree, "val")
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
