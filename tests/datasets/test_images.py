from __future__ import annotations

import errno
import pickle
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.datasets.folder import Files
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.datasets.image_files import make_image, write


def _open(spec: str, **options: Any) -> Images:
    images = open_images(spec, **options)
    assert isinstance(images, Images)
    return images


def test_a_folder_of_two_levels(tree: Path) -> None:
    images = _open(f"folder:{tree}")
    assert len(images) == 4
    assert images.tree.names == (("animal", "plant"), ("cat", "dog", "oak"))
    assert images.tree.parents == ((0, 0, 1),)
    assert [images.name(i) for i in (0, 3)] == ["animal/cat/a.png", "plant/oak/d.png"]
    image, target = images[3]
    assert (image.mode, image.size) == ("RGB", (20, 16))
    assert np.array_equal(np.asarray(image), np.asarray(make_image(3)))
    assert target.dtype == torch.int64
    assert target.tolist() == [1, 2]


def write_masks(root: Path, names: list[str]) -> None:
    """A gray image per name below ``root``."""
    for name in names:
        path = write(root, [name]) / name
        Image.open(path).convert("L").save(path)


def test_masks_are_no_class(flat: Path) -> None:
    write_masks(flat, ["masks/train/a/00.png"])
    images = _open(f"folder:{flat}")
    assert images.tree.names == (("a", "b", "c"),)
    assert len(images) == 12
    assert images.mask(0) is not None


def test_a_class_that_a_split_lacks_keeps_its_number(tree: Path) -> None:
    val = _open(f"folder:{tree}", split="val")
    assert val.tree == _open(f"folder:{tree}").tree
    assert [val[i][1].tolist() for i in range(2)] == [[0, 0], [1, 2]]


def test_images_without_folders_are_unlabeled(tmp_path: Path) -> None:
    images = _open(f"folder:{write(tmp_path, ['a.png', 'b.png'])}")
    assert images.tree.levels == 0
    assert images[1][1].shape == (0,)
    assert images[1][1].dtype == torch.int64


def test_masks_lie_beside_the_splits(tree: Path) -> None:
    path = tree / "masks/train/animal/cat/b.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (20, 16), "white").save(path)
    images = _open(f"folder:{tree}")
    mask = images.mask(1)
    assert mask is not None
    assert (mask.mode, mask.size, mask.getpixel((3, 3))) == ("L", (20, 16), 255)
    assert images.mask(0) is None
    assert _open(f"folder:{tree}", split="val").mask(0) is None


def test_a_subset_of_classes(tree: Path, tmp_path: Path) -> None:
    listed = tmp_path / "some.txt"
    listed.write_text("# two of them\noak\n\ncat  # the first\n")
    images = _open(f"folder:{tree}", subset=str(listed))
    assert images.tree.names == (("animal", "plant"), ("cat", "oak"))
    assert [images[i][1].tolist() for i in range(3)] == [[0, 0], [0, 0], [1, 1]]
    assert images.name(2) == "plant/oak/d.png"
    with pytest.raises(DataError, match=r"imagenet100 names 100 classes, 100 of which"):
        _open(f"folder:{tree}", subset="imagenet100")


def test_a_split_without_any_image_of_the_subset(tree: Path, tmp_path: Path) -> None:
    listed = tmp_path / "some.txt"
    listed.write_text("dog\n")
    with pytest.raises(DataError, match="no image of this split"):
        _open(f"folder:{tree}", split="val", subset=str(listed))


@pytest.mark.parametrize("spec", ["/tmp", "folder/x", "zip:/x.zip", "coco", ":x", ""])
def test_an_unknown_spec_lists_the_known(spec: str) -> None:
    with pytest.raises(DataError, match=r"unknown data.*NAME:LOC.*demo, demo-many, demo-maps, folder,.*wds"):
        open_images(spec)


def test_a_bare_path_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"did you mean folder:{tmp_path}"):
        open_images(str(tmp_path))


def test_the_demo_is_a_folder_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASTSSL_CACHE", str(tmp_path))
    train, val = (_open("demo:size=32,per_class=1", split=split) for split in ("train", "val"))
    assert train.tree == val.tree
    assert train.tree.levels == 2
    assert train[0][0].size == (32, 32)
    mask = train.mask(0)
    assert mask is not None
    assert mask.size == (32, 32)
    with pytest.raises(DataError, match=r"demo:color=3|color"):
        open_images("demo:color=3")


def test_pickles(tree: Path) -> None:
    images = _open(f"folder:{tree}")
    copy = pickle.loads(pickle.dumps(images))
    assert np.array_equal(np.asarray(copy[2][0]), np.asarray(images[2][0]))


def test_a_tar_gives_what_its_folder_gives(flat: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "flat.tar", "w") as archive:
        archive.add(flat, arcname=".")
    folder, tar = _open(f"folder:{flat}"), _open(f"tar:{tmp_path}/flat.tar")
    assert tar.tree == folder.tree
    for index in range(len(folder)):
        assert tar.name(index) == folder.name(index)
        assert torch.equal(tar[index][1], folder[index][1])
        assert np.array_equal(np.asarray(tar[index][0]), np.asarray(folder[index][0]))


# what may be wrong with a file


def _ruin(path: Path, how: str) -> None:
    content = path.read_bytes()
    broken = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "text": b"<html>404 not found</html>",
        "garbled": content[:60] + bytes(60) + content[120:],
    }
    path.unlink() if how == "gone" else path.write_bytes(broken[how])


@pytest.mark.parametrize("how", ["empty", "truncated", "text", "garbled", "gone"])
def test_an_unreadable_file_is_replaced_by_the_next(flat: Path, how: str) -> None:
    images = _open(f"folder:{flat}")
    _ruin(flat / images.name(11), how)
    sample = images.fetch(11)
    assert [bad.name for bad in sample.bad] == [str(flat / images.name(11))]
    assert sample.position == 0
    assert torch.equal(sample.target, images[0][1])
    assert np.array_equal(np.asarray(sample.image), np.asarray(images[0][0]))
    assert images.fetch(3).bad == ()


def test_a_tiny_jpeg_is_readable(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    make_image(0, (4, 9)).save(tmp_path / "train" / "a" / "1.jpg")
    images = _open(f"folder:{tmp_path}")
    assert images.inspect(0, decoded=True) is None


def test_an_unreadable_mask_is_noted(flat: Path) -> None:
    images = _open(f"folder:{flat}")
    write_masks(flat, [f"masks/train/{images.name(i)}" for i in range(4)])
    images = _open(f"folder:{flat}")
    _ruin(flat / "masks/train" / images.name(2), "truncated")
    mask = images.mask(0)
    assert mask is not None
    assert mask.size == images[0][0].size
    assert images.mask(2) is images.mask(4) is None
    assert list(images.bad) == [f"the mask of {images.name(2)}"]


class NoMoreFiles(Files):
    """The files of a process that has reached its limit of open files."""

    def open(self, row: int) -> IO[bytes]:
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_fault_of_the_system_is_no_unreadable_mask(flat: Path) -> None:
    """Else the image would be left out of what is measured on objects."""
    images = _open(f"folder:{flat}")
    write_masks(flat, [f"masks/train/{images.name(0)}"])
    whole = _open(f"folder:{flat}")
    assert isinstance(whole.source, Files)
    refused = replace(whole, source=NoMoreFiles(Path(whole.source.folder), [images.name(0)]))
    with pytest.raises(OSError, match="Too many open files"):
        refused.mask(0)
    assert not refused.bad


def test_nothing_readable_is_an_error(flat: Path) -> None:
    images = _open(f"folder:{flat}")
    for path in flat.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"12 images in a row.*{images.name(0)}.*check the disk"):
        images[0]


def test_an_index_out_of_range_is_an_index_error(flat: Path) -> None:
    images = _open(f"folder:{flat}")
    assert torch.equal(images[-1][1], images[11][1])
    with pytest.raises(IndexError):
        images[12]
