"""An image size from a stranger's file asks for no memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from castssl.checkpoints import load_encoder
from castssl.checkpoints.native import SETTINGS, read_file, save_encoder
from castssl.errors import ConfigError, DataError
from castssl.models.create import create
from castssl.models.image_sizes import LARGEST, check_side


def test_sizes_at_the_limits() -> None:
    for size in (1, LARGEST):
        check_side("x", size)
    for size in (0, LARGEST + 1):
        with pytest.raises(ValueError, match=f"x is built for images of 1 to {LARGEST} pixels per side, got"):
            check_side("x", size)


def none(*_: object, **__: object) -> None:
    raise AssertionError("the size must be refused before a model is built or an image is made")


def test_a_huge_size_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "encoder.safetensors"
    save_encoder(create("timm:test_resnet", image_size=32), path)
    _, text = read_file(path)
    changed = text.replace('"image_size": 32', '"image_size": 100000')
    assert changed != text
    save_file(load_file(path), path, {SETTINGS: changed})
    monkeypatch.setattr(timm, "create_model", none)
    monkeypatch.setattr(torch, "zeros", none)
    with pytest.raises(ConfigError, match="got image_size=100000"):
        create("timm:test_resnet", image_size=100_000)
    with pytest.raises(DataError, match=r"encoder\.safetensors describe no encoder \(image_size 100000, ex"):
        load_encoder(path)
