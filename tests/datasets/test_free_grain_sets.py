from __future__ import annotations

from pathlib import Path

import pytest

from castssl.datasets import taxonomies
from castssl.datasets.free_grain import hide_fine
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.datasets.free_grain_files import (
    NAMES,
    WNIDS,
    depths,
    global_id,
    write_cub_real,
    write_imagenet_f,
    write_inat_f,
)
from tests.datasets.tree_layouts import AIRCRAFT, write_aircraft, write_cub


def _open(spec: str, split: str = "train") -> Images:
    images = open_images(spec, split=split)
    assert isinstance(images, Images)
    return images


def _found(images: Images, prefix: str = "") -> dict[str, list[int]]:
    return {prefix + images.name(i): images.targets[i].tolist() for i in range(len(images))}


@pytest.mark.parametrize("place", ["beside", "data", "apart"])
def test_imagenet_f_has_the_labels_that_its_list_gives(tmp_path: Path, place: str) -> None:
    root = tmp_path / "imagenet"
    lists = {"beside": root, "data": root / "data", "apart": tmp_path / "release"}[place]
    truth = write_imagenet_f(root, lists)
    spec = f"imagenet-f:{root}" + (f"?lists={lists}" if place == "apart" else "")
    train, val = _open(spec), _open(spec, "val")
    assert _found(train, "train/") | _found(val, "val/") == truth
    assert (len(train), len(val)) == (20, 10)
    assert {(train.targets[i] >= 0).sum().item() for i in range(20)} == {1, 2, 3}
    assert (val.targets >= 0).all()
    assert train.tree == val.tree
    assert train.tree.sizes == (2, 3, 5)
    assert train.tree.names == tuple(NAMES.values())
    assert train.tree.parents == ((0, 0, 1), (2, 1, 1, 0, 2))
    assert train[0][0].size == (20, 16)


def test_imagenet_3l_is_the_same_with_all_labels(tmp_path: Path) -> None:
    write_imagenet_f(tmp_path, tmp_path)
    train, partial = _open(f"imagenet-3l:{tmp_path}"), _open(f"imagenet-f:{tmp_path}")
    assert train.tree == partial.tree
    assert train.tree.valid(train.targets).all()
    assert (train.targets >= 0).all()
    known = partial.targets >= 0
    assert (train.targets[known] == partial.targets[known]).all()
    listed = tmp_path / "imagenet-F-train.txt"
    four = [line.rpartition(" ")[0] for line in listed.read_text().splitlines()]
    listed.write_text("\n".join(four))
    assert (_open(f"imagenet-3l:{tmp_path}").targets == train.targets).all()
    with pytest.raises(DataError, match=r"imagenet-F-train.txt, line 1: 4 columns; got 'train/n"):
        _open(f"imagenet-f:{tmp_path}")


def _hidden(paths: list[list[int]]) -> list[list[int]]:
    known = zip(paths, depths(len(paths)), strict=True)
    return [[*path[:depth], *[-1] * (3 - depth)] for path, depth in known]


def test_inat21_f_has_the_classes_of_inat21_mini(tmp_path: Path) -> None:
    truth = write_inat_f(tmp_path)
    whole = _open(f"inat21-mini:{tmp_path}")
    train, val = _open(f"inat21-f:{tmp_path}"), _open(f"inat21-f:{tmp_path}", "val")
    assert train.tree == val.tree == whole.tree
    assert train.targets.tolist() == _hidden(truth)
    assert _found(val) == _found(_open(f"inat21-mini:{tmp_path}", "val"))
    assert train[3][0].size == (20, 16)  # It lies in train_mini.


@pytest.mark.parametrize("folders", [("images", "images"), ("train", "test"), ("train", "val")])
def test_cub_real_has_the_classes_of_cub(tmp_path: Path, folders: tuple[str, str]) -> None:
    root = tmp_path / "CUB_200_2011"
    paths = write_cub_real(root, folders)
    assert paths[97] == [7, 17, 97]  # The row of 098.Scott_Oriole in the released list, with 30 as its id.
    assert global_id(paths[97], 2, (13, 38, 200)) == 30
    train, val = _open(f"cub-real:{tmp_path}"), _open(f"cub-real:{root}", "val")
    assert train.tree == val.tree == taxonomies.cub([f"Bird No {i}" for i in range(1, 201)])
    assert val.targets.tolist() == paths
    assert train.targets.tolist() == _hidden(paths)
    assert train.targets[97].tolist() == [7, 17, -1]
    assert val[0][0].size == (20, 16)


@pytest.mark.parametrize("split", ["train", "val"])
def test_cub_f_and_aircraft_f_are_drawn_as_free_grain_draws(tmp_path: Path, split: str) -> None:
    birds = [(i, 1 + i % 3, int(i <= 60)) for i in range(1, 90)]
    cub = write_cub(tmp_path, birds)
    planes = [(f"{i:07}", *AIRCRAFT[i % 5][1:]) for i in range(100)]
    aircraft = write_aircraft(tmp_path, planes[:50], planes[50:])
    for name, root, shares in (("cub", cub, (0.5, 0.4, 0.1)), ("aircraft", aircraft, (0.4, 0.3, 0.3))):
        for seed in (0, 7):
            drawn = _open(f"{name}-f:{root}" + (f"?seed={seed}" if seed else ""), split)
            whole = _open(f"{name}:{root}", split)
            expected = hide_fine(whole, shares, seed=seed) if split == "train" else whole
            assert drawn.tree == whole.tree
            assert _found(drawn) == _found(expected)
        counted = (drawn.targets >= 0).sum(1).bincount(minlength=4)[1:].tolist()
        counts = {"cub": [10, 8, 2], "aircraft": [4, 3, 3]}[name]  # Of a class of 20, and of one of 10.
        wanted = [n * {"cub": 3, "aircraft": 5}[name] for n in counts]
        assert counted == (wanted if split == "train" else [0, 0, len(drawn)])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no imagenet-F-val.txt in .*data; take it from .*FreeGrain.*\?lists="
    ):
        _open(f"imagenet-f:{tmp_path}")
    with pytest.raises(DataError, match=r"no imagenet-F-val.txt in /nowhere; take it"):
        _open(f"imagenet-f:{tmp_path}?lists=/nowhere")
    write_imagenet_f(tmp_path, tmp_path)
    with pytest.raises(DataError, match=r"unknown option 'list'; did you mean 'lists'.*lists, given"):
        _open(f"imagenet-f:{tmp_path}?list=x")
    with pytest.raises(DataError, match="given=all, expected checked or range"):
        _open(f"imagenet-f:{tmp_path}?given=all")
    with pytest.raises(DataError, match="no test split with labels"):
        _open(f"imagenet-f:{tmp_path}", "test")
    with pytest.raises(DataError, match="got seed='-1', expected a whole number from 0"):
        _open(f"cub-f:{tmp_path}?seed=-1")
    listed = tmp_path / "imagenet-F-val.txt"
    held_out = listed.read_text()
    listed.write_text((tmp_path / "imagenet-F-train.txt").read_text())
    with pytest.raises(DataError, match="line 1: 5 columns"):
        _open(f"imagenet-f:{tmp_path}", "val")
    listed.write_text(held_out.replace("val/", "train/"))
    with pytest.raises(DataError, match="line 1: the path begins with train/, expected val/"):
        _open(f"imagenet-f:{tmp_path}", "val")
    listed.write_text(held_out)
    (tmp_path / "imagenet-3L-id_subord_dic.json").unlink()
    with pytest.raises(
        DataError, match=r"no .*imagenet-3L-id_subord_dic.json, expected a JSON object of 3 names"
    ):
        _open(f"imagenet-f:{tmp_path}")


@pytest.mark.parametrize("name", ["a+b", "a b", "a & b", "a=b"])
@pytest.mark.parametrize("bits", ["", "&bits=8"])
def test_folders_of_lists_with_signs(tmp_path: Path, name: str, bits: str) -> None:
    write_imagenet_f(tmp_path, tmp_path / name)
    written = name.replace("&", "%26")
    assert len(_open(f"imagenet-f:{tmp_path}?lists={tmp_path}/{written}{bits}")) == 20


def test_images_that_lie_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "images"
    write_imagenet_f(root, tmp_path)
    val = root / "val"
    for file in list(val.rglob("*.JPEG")):
        file.rename(val / file.name)
    with pytest.raises(DataError, match=r"the images lie flat in .*val, expected one folder a class, as"):
        _open(f"imagenet-f:{root}?lists={tmp_path}", "val")
    for folder in WNIDS:
        for file in (root / "train" / folder).iterdir():
            file.unlink()
    with pytest.raises(DataError, match=r"expected train/<wnid>/\*.JPEG and val/<wnid>/\*.JPEG of ImageNet"):
        _open(f"imagenet-f:{root}?lists={tmp_path}")
