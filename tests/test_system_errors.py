"""The limit of open files, reached by a real process: no reader takes it for a damaged file."""

from __future__ import annotations

import os
import resource
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castssl.checkpoints import native
from castssl.commands.superpixels import _photo
from castssl.datasets.tar import read_split
from castssl.datasets.text import read_text
from castssl.inference.photos import read_photo
from castssl.system_errors import explain
from castssl.text import embeddings
from castssl.training.runs import log_lines


@contextmanager
def no_more_files() -> Iterator[None]:
    """A limit that the open files of this process have reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)  # The lowest number that is free.
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


READERS: dict[str, Callable[[Path], object]] = {
    "text": lambda folder: read_text(folder / "labels.txt"),
    "tar": lambda folder: read_split(folder / "train.tar", "train"),
    "log": lambda folder: list(log_lines(folder / "log.jsonl")),
    "label embeddings": lambda folder: embeddings(["one"], f"file:{folder / 'vectors.npy'}"),
    "stored label embeddings": lambda folder: embeddings(
        ["one"], "words:4", store=folder / "vectors.safetensors"
    ),
    "encoder weights": lambda folder: native.read_file(folder / "vectors.safetensors"),
    "photo": lambda folder: read_photo(folder / "0.png"),
    "photo of castssl superpixels": lambda folder: _photo(folder / "0.png", None, None),
}


@pytest.mark.skipif(os.name != "posix", reason="this system has no limit of open files")
@pytest.mark.parametrize("name", READERS)
def test_the_limit_of_open_files_is_no_damage(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    np.save(tmp_path / "vectors.npy", np.ones((2, 4), np.float32))
    (tmp_path / "vectors.txt").write_text("one\ntwo\n")
    embeddings(["one", "two"], "words:4").write(tmp_path / "vectors.safetensors")
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.add(tmp_path / "0.png", "train/a/0.png")
    read = READERS[name]
    read(tmp_path)  # With enough files: modules are imported, nothing is refused.
    with no_more_files(), pytest.raises(OSError, match="Too many open files") as refused:
        read(tmp_path)
    assert "ulimit -n" in explain(refused.value)
