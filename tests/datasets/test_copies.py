"""Temporary copies on a full disk, which is the kernel's own /dev/full."""

from __future__ import annotations

import errno
import gzip
import io
import tempfile
from pathlib import Path
from typing import IO

import pytest

from castssl.datasets.copies import BLOCK, append, temporary_file
from castssl.errors import DataError

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of temporary files, on a disk that is full."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: FULL.open("w+b"))
    return tmp_path


def message(folder: Path) -> str:
    return rf"cannot be copied to be read: the disk is full in the folder of temporary files {folder}; free"


def test_a_copy_has_the_content() -> None:
    content = bytes(range(256)) * (BLOCK // 128) + b"end"
    with temporary_file() as copy:
        append(copy, io.BytesIO(content[:300]))
        append(copy, io.BytesIO(content[300:]))
        copy.seek(0)
        assert copy.read() == content


def test_what_was_read_before_a_fault_of_the_content_is_kept() -> None:
    whole = gzip.compress(bytes(3 * BLOCK), compresslevel=0)
    with temporary_file() as copy:
        with pytest.raises(EOFError):
            append(copy, gzip.GzipFile(fileobj=io.BytesIO(whole[: 2 * BLOCK])))
        assert copy.tell() >= BLOCK


@needs_full
@pytest.mark.parametrize("count", [1, 3 * BLOCK])
def test_a_full_disk_is_named(count: int, full: Path) -> None:
    copy = temporary_file()
    with pytest.raises(DataError, match=message(full)):
        append(copy, io.BytesIO(bytes(count)))
    assert copy.closed


def test_too_many_open_files_are_no_fault_of_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice on the limit of open files needs the error itself."""

    def refuse() -> IO[bytes]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        temporary_file()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        DataError, match=f"No such file or directory in the folder of .* {tmp_path}/gone; free"
    ):
        temporary_file()
