from __future__ import annotations

from pathlib import Path

import pytest

from castssl.datasets import taxonomies
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.datasets.tree_layouts import write_cub

IMAGES = ((3, 1, 1), (1, 200, 1), (2, 1, 0), (10, 84, 0), (7, 44, 1), (4, 200, 0))
"""Image id, species id, 1 for training."""


def _open(path: Path, split: str = "train") -> Images:
    images = open_images(f"cub:{path}", split=split)
    assert isinstance(images, Images)
    return images


@pytest.mark.parametrize("below", [True, False])
def test_joins_the_files_by_image_id(tmp_path: Path, below: bool) -> None:
    folder = write_cub(tmp_path, IMAGES)
    tree = taxonomies.cub([f"Bird No {i}" for i in range(1, 201)])
    for split, wanted in (("train", 1), ("val", 0), ("test", 0)):
        images = _open(folder if below else tmp_path, split)
        assert images.tree == tree
        result = {images.name(i): images[i][1].tolist() for i in range(len(images))}
        naive = {
            f"{species:03}.Bird_No_{species}/Bird_{image:04}.jpg": tree.paths()[species - 1].tolist()
            for image, species, train in IMAGES
            if train == wanted
        }
        assert result == naive
    image, path = _open(tmp_path, "train")[0]
    assert image.size == (20, 16)
    assert path.shape == (3,)


@pytest.mark.parametrize("file", ["images", "image_class_labels", "train_test_split", "classes"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    folder = write_cub(tmp_path, IMAGES)
    (folder / f"{file}.txt").unlink()
    with pytest.raises(DataError, match=rf"no .*{file}\.txt, expected lines of .*vision\.caltech\.edu"):
        _open(tmp_path)


def test_a_wrong_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/classes.txt.*exists up to .*vision\.caltech\.edu"):
        _open(tmp_path / "nowhere")


def test_files_that_disagree(tmp_path: Path) -> None:
    folder = write_cub(tmp_path, IMAGES)
    labels = folder / "image_class_labels.txt"
    written = labels.read_text()
    labels.write_text(written.replace("7 44\n", ""))
    with pytest.raises(DataError, match=r"image_class_labels.txt lacks 1 images of images.txt, as 7"):
        _open(folder)
    labels.write_text(written.replace("7 44\n", "7 201\n"))
    with pytest.raises(DataError, match=r"classes that classes.txt lacks: \['201'\]"):
        _open(folder)
    labels.write_text("7\n")
    with pytest.raises(DataError, match="line 1: '7' stands alone, expected lines of <image id> <class id>"):
        _open(folder)
    labels.write_text(written)
    (folder / "classes.txt").write_text("1 001.A\n2 002.B\n")
    with pytest.raises(DataError, match="200 species, got 2"):
        _open(folder)
    (folder / "classes.txt").write_text("0 001.A\n1 002.B\n")
    with pytest.raises(DataError, match="class ids 1 to 200"):
        _open(folder)


def test_images_that_are_not_there(tmp_path: Path) -> None:
    folder = write_cub(tmp_path, IMAGES)
    for file in (folder / "images").rglob("*.jpg"):
        file.unlink()
    with pytest.raises(DataError, match=r"expected an image that images.txt names"):
        _open(folder)
