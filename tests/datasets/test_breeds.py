from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from castssl.datasets import taxonomies
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.datasets.tree_layouts import write_imagenet, write_jpegs


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageNet of Living-17, and of one class that is not in it; class i has 1 + i % 2 train images."""
    root = tmp_path_factory.mktemp("imagenet")
    wnids = [*taxonomies.breeds("living17").wnids, *taxonomies.breeds("living17-target").wnids, "n07747607"]
    return write_imagenet(root, {wnid: (1 + i % 2, 1) for i, wnid in enumerate(wnids)})


@pytest.fixture
def imagenet(full: Path, tmp_path: Path) -> Path:
    return shutil.copytree(full, tmp_path / "imagenet")


def _open(spec: str, split: str = "train") -> Images:
    images = open_images(spec, split=split)
    assert isinstance(images, Images)
    return images


def test_classes_by_wnid(full: Path) -> None:
    train, val = _open(f"breeds:living17:{full}"), _open(f"breeds:living17:{full}", "val")
    assert (len(train), len(val)) == (17 * 3, 34)
    assert train.tree == val.tree == taxonomies.breeds("living17").tree
    assert train.targets is not None
    wnid = dict(zip(taxonomies.breeds("living17").wnids, range(34), strict=True))
    for row in range(len(train)):
        fine = wnid[train.name(row).split("/")[0]]
        assert train.targets[row].tolist() == [fine // 2, fine]
    image, path = val[33]
    assert (image.mode, image.size) == ("RGB", (20, 16))
    assert path.tolist() == [16, 33]
    assert np.asarray(image).std() > 1


def test_target_split_has_the_same_labels_and_other_wnids(full: Path) -> None:
    source, target = _open(f"breeds:living17:{full}"), _open(f"breeds:living17-target:{full}")
    assert source.tree.parents == target.tree.parents
    assert target.targets is not None
    labels = {tuple(path) for path in target.targets.tolist()}
    assert labels == {(i // 2, i) for i in range(34)}
    wnids = [{images.name(i).split("/")[0] for i in range(len(images))} for images in (source, target)]
    assert not wnids[0] & wnids[1]


def test_a_subset_of_the_classes_is_numbered_anew(full: Path, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("tarantula\neft\n")
    images = open_images(f"breeds:living17:{full}", subset=str(tmp_path / "some.txt"))
    assert isinstance(images, Images)
    assert images.tree.names == (("salamander", "spider"), ("eft", "tarantula"))
    assert [images[i][1].tolist() for i in range(len(images))] == [[0, 0], [1, 1]]


def test_a_flat_val_folder(imagenet: Path) -> None:
    shutil.rmtree(imagenet / "val")
    write_jpegs(imagenet / "val", ["ILSVRC2012_val_00000001.JPEG"])
    with pytest.raises(DataError, match=r"lie flat in .*val, expected one folder a class as .*n01631663"):
        _open(f"breeds:living17:{imagenet}", "val")


def test_what_is_missing(imagenet: Path) -> None:
    shutil.rmtree(imagenet / "train" / "n01774750")
    with pytest.raises(DataError, match=r"lacks 1 of the 34 .*n01774750 \(tarantula\).*image-net.org"):
        _open(f"breeds:living17:{imagenet}")
    (imagenet / "train" / "n01774750").mkdir()
    with pytest.raises(DataError, match=r"1 class folders of .* hold no image: n01774750"):
        _open(f"breeds:living17:{imagenet}")
    shutil.rmtree(imagenet / "val")
    with pytest.raises(DataError, match=r"no .*val, expected ImageNet as .*<wnid>/\*.JPEG.*image-net.org"):
        _open(f"breeds:living17:{imagenet}", "val")


@pytest.mark.parametrize(
    ("spec", "split", "message"),
    [
        ("breeds:living17", "train", "names no folder; expected breeds:living17:/path"),
        ("breeds:living16:/x", "train", "did you mean 'living17'"),
        ("breeds:living17:/nowhere", "train", r"no /nowhere/train, .*exists up to /\."),
        ("breeds:living17:/nowhere", "test", "no test split with labels, expected train or val"),
    ],
)
def test_wrong_specs(spec: str, split: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _open(spec, split)
