"""Real streams with broken images in them; skipped where the optional package is not installed."""

from __future__ import annotations

import errno
import gzip
import io
import tarfile
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from castssl.data.evaluation_views import CenterView
from castssl.data.loader import Loader, load
from castssl.datasets.open import open_images
from castssl.datasets.stream import Command, Stream, open_address, run_command
from castssl.errors import DataError
from tests.datasets.image_files import make_image, write

TORN = ("0001", "0004")


def _image(kind: str, number: int) -> bytes:
    stream = io.BytesIO()
    make_image(number, (48, 48)).save(stream, kind)
    return stream.getvalue()


def _shard(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of six JPEGs; two of the second's are truncated, and one is empty."""
    pytest.importorskip("webdataset")
    for shard in ("a", "b"):
        members = []
        for number in range(6):
            content = _image("jpeg", number)
            if shard == "b" and f"{number:04}" in TORN:
                content = content[:-200]
            content = b"" if (shard, number) == ("b", 5) else content
            members += [(f"{number:04}.jpg", content), (f"{number:04}.cls", b"1")]
        _shard(tmp_path / f"{shard}.tar", members)
    return tmp_path


def _load(spec: str, *, workers: int = 0, train: bool = True) -> Loader:
    stream = open_images(spec)
    assert isinstance(stream, Stream)
    return load(
        stream, views=CenterView(8), superpixels=None, batch_size=3, workers=workers, train=train, rank=0
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_webdataset_goes_on_and_tells(
    shards: Path, workers: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    loader = _load(f"wds/set:{shards}", workers=workers)
    for epoch in range(2):
        loader.set_epoch(epoch)
        assert sum(len(batch.target) for batch in loader) == 12
    assert sorted(loader.bad) == [f"{shards}/b.tar: {number}" for number in (*TORN, "0005")]
    assert "truncated" in loader.bad[f"{shards}/b.tar: 0001"].lower()
    assert "Ignoring" not in caplog.text + capfd.readouterr().err


def test_webdataset_in_order_leaves_them_out(shards: Path) -> None:
    assert sum(len(batch.target) for batch in _load(f"wds/set:{shards}", train=False)) == 9


def test_a_torn_shard_is_told_by_its_address(shards: Path) -> None:
    full = (shards / "a.tar").read_bytes()
    (shards / "a.tar").write_bytes(full[:3100])
    loader = _load(f"wds/set:{shards}?num_samples=12")
    assert sum(len(batch.target) for batch in loader) == 12
    assert loader.bad[f"{shards}/a.tar"] == "unexpected end of data (0001.jpg)"


@pytest.mark.parametrize("refused", ["stream.open_address", "stream.header"])
def test_a_fault_of_the_system_is_no_broken_shard_or_image(
    shards: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    loader = _load(f"wds/set:{shards}")

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(f"castssl.datasets.{refused}", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        next(iter(loader))
    assert not loader.bad


@pytest.mark.parametrize("ending", [".json", ".tar"])
def test_a_fault_of_the_system_while_shards_are_counted(
    shards: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:

    def refuse(address: str) -> IO[bytes]:
        if address.endswith(ending):
            raise OSError(errno.EMFILE, "Too many open files")
        return open_address(address)

    monkeypatch.setattr("castssl.datasets.stream.open_address", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        _load(f"wds/set:{shards}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_no_broken_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed shards, those at an address, and outputs of commands are copied to temporary files."""
    pytest.importorskip("webdataset")
    _shard(tmp_path / "a.tar", [("0.jpg", _image("jpeg", 0)), ("0.cls", b"1")])
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b"))
    place = f"the folder of temporary files {tempfile.gettempdir()}"
    message = rf"^the data cannot be copied to be read: the disk is full in {place}; free"
    for name, workers in ((f"file://{tmp_path}/a.tar", 0), ("a.tar.gz", 0), ("a.tar.gz", 1)):
        spec = f"wds/set:{tmp_path}?split={name}&num_samples=1&num_classes=2"
        loader = _load(spec, workers=workers, train=False)
        with pytest.raises(DataError, match=message):
            next(iter(loader))
        assert not loader.bad
    with pytest.raises(DataError, match=message):
        run_command(Command(f"pipe:cat {tmp_path}/a.tar"))
    with pytest.raises(DataError, match=message):
        open_images(f"wds/set:{tmp_path}?split=a.tar.gz&num_classes=2")


def test_a_wrong_option_is_no_broken_image(shards: Path) -> None:
    with pytest.raises(DataError, match=r"a.tar: 0000 has no 'json'.*the option target_key"):
        next(iter(_load(f"wds/set:{shards}?target_key=color&num_samples=12")))


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_broken_images_is_an_error(tmp_path: Path, workers: int) -> None:
    pytest.importorskip("webdataset")
    members = [(f"{i:04}.{kind}", b"1") for i in range(120) for kind in ("jpg", "cls")]
    _shard(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=r"^100 images in a row of wds/set.*check the shards") as caught:
        next(iter(_load(f"wds/set:{tmp_path}", workers=workers)))
    assert "Traceback" not in str(caught.value)


def test_streams_of_the_hub_go_on_and_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    root = write(tmp_path / "pets", [f"train/{'cat' if i % 2 else 'dog'}/{i}.png" for i in range(6)])
    (root / "train/cat/1.png").write_bytes(b"broken")
    (root / "train/dog/2.png").write_bytes(b"")
    loader = _load(f"hfids/{root}:{tmp_path}/cache?num_samples=6&target_key=label", train=False)
    assert sum(len(batch.target) for batch in loader) == 4
    assert sorted(loader.bad) == [str(root / "train/cat/1.png"), str(root / "train/dog/2.png")]
