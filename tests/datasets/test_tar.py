from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.datasets.tar import Tar, read_split
from castssl.errors import DataError
from tests.datasets.image_files import make_image


def _png(seed: int) -> bytes:
    stream = io.BytesIO()
    make_image(seed).save(stream, "png")
    return stream.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _contents(source: Tar) -> dict[str, bytes]:
    return {source.name(row): source.open(row).read() for row in range(len(source.names))}


IMAGES = {"n01/a.png": _png(0), "n01/b.png": _png(1), "n02/c.JPEG": _png(2)}


def test_reads_members_by_position(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    path.write_bytes(_tar({"readme.txt": b"hello", **IMAGES, "n02/._c.JPEG": b"junk", ".trash/d.png": b""}))
    source, classes = read_split(path, "train")
    assert _contents(source) == IMAGES
    assert classes == [("n01",), ("n01",), ("n02",)]
    assert _contents(pickle.loads(pickle.dumps(source))) == IMAGES
    with Image.open(source.open(2)) as image:
        assert image.size == (20, 16)


def test_a_broken_image_inside_is_called_by_archive_and_path(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    path.write_bytes(_tar({**IMAGES, "n01/b.png": b"", "n01/b2.png": b"junk"}))
    images = open_images(f"tar:{path}")
    assert isinstance(images, Images)
    sample = images.fetch(1)
    assert images.name(sample.position) == "n02/c.JPEG"
    assert [bad.name for bad in sample.bad] == [f"{path}: n01/b.png", f"{path}: n01/b2.png"]


def test_a_torn_archive_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "all.tar").write_bytes(_tar(IMAGES)[:1200])
    with pytest.raises(DataError, match=r"all\.tar as a plain tar.*copy damaged ones again"):
        read_split(tmp_path / "all.tar", "train")


def test_tars_inside_a_tar_are_classes(tmp_path: Path) -> None:
    path = tmp_path / "ILSVRC2012_img_train.tar"
    inner = {"n01.tar": _tar({"a.png": _png(0), "b.png": _png(1)}), "n02.tar": _tar({"c.JPEG": _png(2)})}
    path.write_bytes(_tar(inner))
    source, classes = read_split(path, "train")
    assert _contents(source) == IMAGES
    assert classes == [("n01",), ("n01",), ("n02",)]


def test_links_to_tars_inside_a_tar_are_read_a_few_times(tmp_path: Path) -> None:
    stream, inside = io.BytesIO(), _tar({"a.png": IMAGES["n01/a.png"]})
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("n.tar")
        entry.size = len(inside)
        archive.addfile(entry, io.BytesIO(inside))
        for number in range(150):
            link = tarfile.TarInfo(f"l{number:03}.tar")
            link.type, link.linkname = tarfile.SYMTYPE, "n.tar"
            archive.addfile(link)
    path = tmp_path / "all.tar"
    path.write_bytes(stream.getvalue())
    with pytest.warns(
        UserWarning, match=r"50 entries cannot be read, such as l100.tar: tars in it are linked to"
    ):
        source, _ = read_split(path, "train")
    assert len(source) == 101


def test_folders_common_to_all_are_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    path.write_bytes(_tar({f"./data/sets/{name}": content for name, content in IMAGES.items()}))
    assert _contents(read_split(path, "train")[0]) == IMAGES
    path.write_bytes(_tar({"data/n01/a.png": _png(0), "data/n01/b.png": _png(1)}))
    assert read_split(path, "train")[1] == [("n01",), ("n01",)]


def test_one_tar_with_both_splits(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    path.write_bytes(
        _tar({"s/train/n01/a.png": _png(0), "s/train/n02/b.png": _png(1), "s/val/n01/c.png": _png(2)})
    )
    assert read_split(path, "train")[1] == [("n01",), ("n02",)]
    assert _contents(read_split(path, "val")[0]) == {"n01/c.png": _png(2)}
    with pytest.raises(DataError, match=r"no test split.*train, val"):
        read_split(path, "test")


def test_a_tar_per_split(tmp_path: Path) -> None:
    (tmp_path / "train.tar").write_bytes(_tar(IMAGES))
    (tmp_path / "val.tar").write_bytes(_tar({"n01/v.png": _png(3)}))
    for argument in (tmp_path, tmp_path / "train.tar"):
        assert _contents(read_split(argument, "train")[0]) == IMAGES
        assert list(_contents(read_split(argument, "val")[0])) == ["n01/v.png"]


def test_a_tar_per_class(tmp_path: Path) -> None:
    for name in ("train/n01.tar", "train/n02.tar", "val/n01.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(_tar({f"{name[0]}.png": _png(len(name))}))
    source, classes = read_split(tmp_path, "train")
    assert classes == [("n01",), ("n02",)]
    assert _contents(source) == {"n01/t.png": _png(13), "n02/t.png": _png(13)}
    assert read_split(tmp_path, "val")[1] == [("n01",)]


def test_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with pytest.raises(DataError, match="there is no"):
        read_split(path, "train")
    path.write_bytes(b"no tar")
    with pytest.raises(DataError, match="plain tar"):
        read_split(path, "train")
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(DataError, match="unpack compressed ones"):
        read_split(path, "train")
    path.write_bytes(_tar({"a.txt": b""}))
    with pytest.raises(DataError, match="holds no images"):
        read_split(path, "train")
    path.write_bytes(_tar(IMAGES))
    with pytest.raises(DataError, match=r"no val split.*n01, n02"):
        read_split(path, "val")


def test_a_folder_without_any_tar_names_folder(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for split in ("train", "val"):
        with pytest.raises(DataError, match=f"holds no .tar file; did you mean folder:{tmp_path} "):
            read_split(tmp_path, split)
