"""Models of plugins: by name, into files and back, and kinds that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import castssl
from castssl.checkpoints.native import save_encoder
from castssl.errors import UnknownPlugin
from tests.acceptance.conftest import Command


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The file of an encoder of the template plugin."""
    torch.manual_seed(0)
    return save_encoder(castssl.create("template:large", image_size=32), tmp_path / "encoder.safetensors")


def test_a_plugin_s_encoder_goes_into_a_file_and_back(weights: Path) -> None:
    torch.manual_seed(0)
    made, back = castssl.create("template:large", image_size=32), castssl.load_encoder(weights)
    assert (back.config, back.dim, back.sizes) == (made.config, 256, (4,))
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in made.state_dict().items())


def test_commands_take_it_as_they_take_cast(weights: Path, tmp_path: Path, command: Command) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 32), (200, 30, 0)).save(photo)
    assert command("segment", photo, "--weights", weights, "--out", tmp_path / "out").code == 0
    assert list((tmp_path / "out").iterdir())
    done = command("flops", "template:small", "--image-size", "32")
    assert done.code == 0, done


def test_a_kind_that_is_not_installed_is_named_with_those_that_are(
    weights: Path, tmp_path: Path, command: Command
) -> None:
    with pytest.raises(UnknownPlugin, match=r"no encoders.*'tim'.*did you mean 'timm'"):
        castssl.create("tim:resnet18")
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    changed = {name: text.replace("template:large", "nothing:large") for name, text in metadata.items()}
    assert changed != metadata
    save_file(load_file(weights), weights, metadata=changed)
    done = command("segment", tmp_path / "photo.png", "--weights", weights, "--out", tmp_path / "out")
    assert done.code == 1
    assert "'nothing'" in done.err
    assert "template (castssl-template" in done.err


def test_check_says_when_there_is_nothing_to_check(command: Command) -> None:
    done = command("check", "encoders", "template:huge")
    assert done.code == 1
    assert "no encoder 'huge'; there are small, large" in done.err
    assert "failed" not in done.out
