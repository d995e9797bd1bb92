"""The readers on small real files; each part is skipped where its optional package is not installed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.views import OneView
from castssl.datasets.images import Images
from castssl.datasets.open import open_images, parse
from castssl.datasets.stream import Stream, read_spec
from castssl.errors import DataError
from castssl.superpixels.seeds import Seeds
from tests.datasets.image_files import make_image, write


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("demo", ("demo", "")),
        ("demo:size=32", ("demo", "size=32")),
        ("folder:~/a b", ("folder", "~/a b")),
        ("tar:/x/train.tar", ("tar", "/x/train.tar")),
        ("wds/in1k:/x", ("wds", "in1k:/x")),
        ("hfds/org/name", ("hfds", "org/name")),
        ("hfids/org/name:root", ("hfids", "org/name:root")),
        ("tfds/mnist", ("tfds", "mnist")),
    ],
)
def test_parses_every_kind(spec: str, expected: tuple[str, str]) -> None:
    assert parse(spec) == expected


def test_a_plus_sign_among_the_options_is_one() -> None:
    spec = read_spec("hfds", "pets?split=train+test", ("split",))
    assert spec.options == {"split": "train+test"}


@pytest.mark.parametrize(
    ("kind", "package"), [("tfds", "tensorflow_datasets"), ("hfds", "datasets"), ("wds", "webdataset")]
)
def test_names_the_missing_package(kind: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=rf"needs the package {package}.*pip install"):
        open_images(f"{kind}/x:/nowhere")


def _shard(path: Path, first: int, count: int, *, labeled: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in range(first, first + count):
            stream = io.BytesIO()
            make_image(number).save(stream, "png")
            members = {"png": stream.getvalue(), "cls": str(number % 3).encode()}
            for suffix in ("png", "cls") if labeled else ("png",):
                entry = tarfile.TarInfo(f"{number:04}.{suffix}")
                entry.size = len(members[suffix])
                archive.addfile(entry, io.BytesIO(members[suffix]))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Four train shards of six images, one val shard of five."""
    pytest.importorskip("webdataset")
    for number in range(4):
        _shard(tmp_path / f"set-train-{number:02}.tar", 6 * number, 6)
    _shard(tmp_path / "set-val-00.tar", 30, 5)
    return tmp_path


def _stream(spec: str, **options: Any) -> Stream:
    stream = open_images(spec, **options)
    assert isinstance(stream, Stream)
    return stream


def _numbers(loader: Any) -> list[int]:
    """Which images came, recognized by their middle."""
    references = [CenterView(8)(make_image(number))[0] for number in range(40)]
    seen = [image for batch in loader for image in batch.views[0].image]
    return [next(n for n, view in enumerate(references) if torch.equal(view, image)) for image in seen]


@pytest.mark.parametrize("workers", [0, 2])
def test_webdataset_trains_on_all_shards(shards: Path, workers: int) -> None:
    stream = _stream(f"wds/set:{shards}?num_classes=3")
    assert len(stream) == 24
    assert stream.tree.sizes == (3,)
    loader = load(stream, views=CenterView(8), superpixels=Seeds(10), batch_size=4, workers=workers)
    assert not loader.resumable
    assert len(loader) == 6
    first = _numbers(loader)
    assert sorted(first) == list(range(24))
    loader.set_epoch(1)
    assert sorted(second := _numbers(loader)) == list(range(24))
    assert second != first
    batch = next(iter(loader))
    assert batch.target.shape == (4, 1)
    assert batch.views[0].segments.shape == (4, 8, 8)


def test_webdataset_evaluates_each_image_once(shards: Path) -> None:
    stream = _stream(f"wds/set:{shards}", split="val")
    assert stream.tree.levels == 0
    loader = load(stream, views=CenterView(8), superpixels=None, batch_size=2, train=False)
    assert _numbers(loader) == [30, 31, 32, 33, 34]
    assert next(iter(loader)).target.shape == (2, 0)


def test_webdataset_s_own_list_of_shards(shards: Path) -> None:
    files = sorted(path.name for path in shards.glob("*train*"))
    split = {"name": "train", "num_samples": 24, "filenames": files, "shard_lengths": [6] * 4}
    (shards / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    assert len(_stream(f"wds/set:{shards}")) == 24
    with pytest.raises(DataError, match="cannot open the val split"):
        _stream(f"wds/set:{shards}", split="val")


def test_a_stream_goes_on_with_a_fresh_shuffle(shards: Path) -> None:
    def numbers(start: int) -> list[int]:
        loader = load(_stream(f"wds/set:{shards}"), views=CenterView(8), superpixels=None, batch_size=4)
        loader.set_epoch(1, start)
        return _numbers(loader)

    assert len(numbers(4)) == 8
    assert numbers(4) != numbers(0)[:8]


def test_streamed_augmentation_depends_on_seed_and_epoch_only(shards: Path) -> None:
    def batches(seed: int, epoch: int) -> list[Any]:
        loader = load(
            _stream(f"wds/set:{shards}"), views=OneView(8), superpixels=None, batch_size=4, seed=seed
        )
        loader.set_epoch(epoch)
        return [batch.views[0].image for batch in loader]

    first = torch.cat(batches(0, 0))
    assert torch.equal(first, torch.cat(batches(0, 0)))
    assert not torch.equal(first, torch.cat(batches(1, 0)))
    assert not torch.equal(first, torch.cat(batches(0, 1)))


def test_webdataset_says_what_is_wrong(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs the folder"):
        open_images("wds/set")
    with pytest.raises(DataError, match=r"holds no \.tar"):
        open_images(f"wds/set:{tmp_path}/none")
    with pytest.raises(DataError, match=r"no shard in .*'test'"):
        open_images(f"wds/set:{shards}", split="test")
    with pytest.raises(DataError, match="no subset imagenet100"):
        open_images(f"wds/set:{shards}", subset="imagenet100")
    stream = _stream(f"wds/set:{shards}")
    with pytest.raises(DataError, match=r"too few shards for 1 processes of 5 workers.*enough for 4"):
        load(stream, views=CenterView(8), superpixels=None, batch_size=4, workers=5)
    _shard(tmp_path / "plain" / "a.tar", 0, 2, labeled=False)
    assert len(_stream(f"wds/set:{tmp_path}/plain")) == 2
    with pytest.raises(DataError, match=r"the 2 images .* have no labels; expected a \.cls"):
        open_images(f"wds/set:{tmp_path}/plain?num_classes=3")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set as the datasets library loads it from a folder."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    root = write(tmp_path / "pets", [f"train/{'cat' if i % 2 else 'dog'}/{i}.png" for i in range(6)])
    return write(root, ["validation/cat/v.png", "validation/dog/w.png"])


def test_hugging_face_data_is_map_style(hub: Path, tmp_path: Path) -> None:
    images = open_images(f"hfds/{hub}:{tmp_path}/cache")
    assert isinstance(images, Images)
    assert len(images) == 6
    assert images.tree.names == (("cat", "dog"),)
    counted = sorted(int(images[i][1]) for i in range(6))
    assert counted == [0, 0, 0, 1, 1, 1]
    assert images[0][0].size == (20, 16)
    assert images.name(2) == f"hfds/{hub}:{tmp_path}/cache#2"
    val = open_images(f"hfds/{hub}:{tmp_path}/cache", split="val")
    assert len(val) == 2
    listed = tmp_path / "cats.txt"
    listed.write_text("cat\n")
    cats = open_images(f"hfds/{hub}:{tmp_path}/cache", subset=str(listed))
    assert isinstance(cats, Images)
    assert [cats[i][1].tolist() for i in range(3)] == [[0]] * 3
    loader = load(images, views=CenterView(8), superpixels=None, batch_size=3, workers=2)
    assert sum(len(batch.target) for batch in loader) == 6


def test_hugging_face_data_without_classes(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = write(tmp_path / "plain", ["train/a.png", "train/b.png"])
    images = open_images(f"hfds/{root}:{tmp_path}/cache")
    assert isinstance(images, Images)
    assert images.tree.levels == 0
    assert np.asarray(images[1][0]).shape == (16, 20, 3)
    with pytest.raises(DataError, match="names no classes"):
        open_images(f"hfds/{root}:{tmp_path}/cache", subset="imagenet100")


def test_hugging_face_streams(hub: Path, tmp_path: Path) -> None:
    stream = _stream(f"hfids/{hub}:{tmp_path}/cache?num_samples=6&target_key=label")
    loader = load(stream, views=CenterView(8), superpixels=None, batch_size=2)
    assert [len(batch.target) for batch in loader] == [2, 2, 2]
