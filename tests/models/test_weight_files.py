"""One folder, one file of weights: no reader chooses between two silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from castssl.checkpoints import load_encoder, read
from castssl.checkpoints.native import save_encoder
from castssl.errors import DataError
from castssl.models.create import create
from castssl.models.timm_checkpoints import load_checkpoint
from castssl.models.timm_registry import TimmCAST
from castssl.models.weight_files import NAMES


def test_each_reader_refuses_a_folder_with_both_files(tmp_path: Path) -> None:
    run, shared = (tmp_path / name for name in NAMES)
    save_encoder(create("nano", image_size=32, sizes=(16, 8, 4)), run)
    shared.write_bytes(run.read_bytes())
    model = TimmCAST("cast_nano", sizes=(16, 8, 4), img_size=32)
    for reader in (read, load_encoder, lambda folder: load_checkpoint(model, str(folder))):
        with pytest.raises(DataError, match=r"two files of weights.*Give the path") as caught:
            reader(tmp_path)
        assert str(run) in str(caught.value)
        assert str(shared) in str(caught.value)
    assert read(shared).config == read(run).config
