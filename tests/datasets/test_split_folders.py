"""Which folder a split is read from."""

from __future__ import annotations

from pathlib import Path

import pytest

from castssl.datasets.split_folders import find_split
from castssl.errors import DataError


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
    split = find_split(tmp_path, asked)
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
        find_split(tmp_path, asked)
    assert all(word in str(caught.value) for word in [str(tmp_path), *words])


def test_says_how_far_a_missing_path_exists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"exists up to {tmp_path}:"):
        find_split(tmp_path / "no" / "such", "train")
    (tmp_path / "x.tar").touch()
    with pytest.raises(DataError, match=f"did you mean tar:{tmp_path}/x.tar"):
        find_split(tmp_path / "x.tar", "train")


@pytest.mark.parametrize("name", ["flat", "table.csv"])
def test_an_unknown_option_is_no_part_of_the_path(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"unknown option 'bitz'; did you mean 'bits'\? expected range, bits"):
        find_split(tmp_path / f"{name}?bitz=12", "train")
    with pytest.raises(DataError, match="there is no folder"):
        find_split(tmp_path / "other?bitz=12", "train")
    (tmp_path / f"{name}?bitz=12").mkdir()
    assert find_split(tmp_path / f"{name}?bitz=12", "train").folder == tmp_path / f"{name}?bitz=12"


def test_finds_masks_in_both_places(tmp_path: Path) -> None:
    for name in ("set/train", "set/val", "set/masks/train", "flat/cats", "flat/masks/train"):
        (tmp_path / name).mkdir(parents=True)
    assert find_split(tmp_path / "set", "train").masks == tmp_path / "set/masks/train"
    assert find_split(tmp_path / "set/train", "train").masks == tmp_path / "set/masks/train"
    assert find_split(tmp_path / "set", "val").masks is None
    assert find_split(tmp_path / "flat", "train").masks == tmp_path / "flat/masks/train"
