"""Encoders in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from castssl.errors import DataError
from castssl.models.create import create
from castssl.transfer.encoders import load_encoder, save_encoder


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sizes": (16, 8, 4), "image_size": 32, "pooling": "graph:centroids=random"}
    encoder = create("nano", **settings)
    path = save_encoder(encoder, tmp_path / "e.safetensors", name="nano", superpixels="grid", **settings)
    again, read = load_encoder(path)
    assert read["superpixels"] == "grid"
    assert not again.training
    expected = encoder.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(again.state_dict()[k], v) for k, v in expected.items())
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no encoder at"):
        load_encoder(tmp_path / "no.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(DataError, match="no whole safetensors file"):
        load_encoder(tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(DataError, match="no castssl settings"):
        load_encoder(tmp_path / "bare.safetensors")
