"""Reading files from strangers: nothing in them runs."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from castssl import load_official
from castssl.checkpoints import read
from castssl.checkpoints.convert import convert
from castssl.checkpoints.load import read_torch
from castssl.errors import DataError
from tests.checkpoints.checkpoints import state


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_the_bomb_is_live(tmp_path: Path) -> None:
    torch.save({"model": Bomb(tmp_path / "ran")}, tmp_path / "evil.pth")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"model": state("cast", 4), "extra": Bomb(mark)}, tmp_path / "evil.pth")
    torch.save({"args": argparse.Namespace(hidden=Bomb(mark))}, tmp_path / "hidden.pth.tar")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": Bomb(mark)}))
    torch.save({"model": Bomb(mark)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for path in tmp_path.glob("*.pth*"):
        with pytest.raises(DataError, match="never unpickles") as caught:
            load_official(path)
        # Another class is named where castssl-mmseg, which allows getattr in its own way, was imported.
        named = any(word in str(caught.value) for word in ("Path", "getattr"))
        assert named or path.name == "plain.pth", caught.value  # of that torch tells no more than an opcode
        with pytest.raises(DataError, match="never unpickles"):
            convert(path, tmp_path / "out.safetensors")
    assert not mark.exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_a_namespace_is_the_only_object(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1e-3, sizes=[1, 2])}, tmp_path / "a.pth")
    assert read_torch(tmp_path / "a.pth")["args"].lr == 1e-3
    torch.save({"args": tmp_path}, tmp_path / "b.pth")
    with pytest.raises(DataError, match="PosixPath"):
        read_torch(tmp_path / "b.pth")


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no weights at"):
        read(tmp_path / "nothing.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DataError, match="holds a list"):
        read(tmp_path / "list.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(DataError, match="not a complete safetensors file"):
        load_official(tmp_path / "cut.safetensors")
