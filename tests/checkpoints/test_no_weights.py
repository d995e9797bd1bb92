"""Paths without weights: the message says what lies there and what to give instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from castssl.checkpoints import load_encoder, read
from castssl.checkpoints.native import save_encoder
from castssl.errors import DataError
from castssl.models.create import create
from castssl.objectives.moco import MoCoV3


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "flat"
    (folder / "pictures").mkdir(parents=True)
    save_encoder(create("nano", image_size=32), folder / "encoder.safetensors")
    for name, content in (
        ("config.json", "{}"),
        ("results.json", '{"trained": {}}'),
        ("log.jsonl", '{"time": 1}\n'),
        ("report.html", "<!doctype html>"),
        ("odd.pth", "\n [1, 2]"),
        ("nothing.pt", ""),
    ):
        (folder / name).write_text(content)
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "step-00000001.png")
    return folder


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("config.json", "is JSON"),
        ("results.json", "is JSON"),
        ("log.jsonl", "is a log"),
        ("report.html", "is a page"),
        ("odd.pth", "is JSON"),
        ("nothing.pt", "is an empty file"),
        ("pictures/step-00000001.png", "is a picture"),
        ("pictures", "no weights at"),
        ("step-00000001.pt", "no weights at"),
    ],
)
def test_the_folder_to_give_is_named(run: Path, name: str, what: str) -> None:
    with pytest.raises(DataError) as caught:
        read(run / name)
    message = str(caught.value)
    assert what in message
    assert message.endswith(f"; give the folder {run}, which has weights")
    assert "unpickle" not in message
    with pytest.raises(DataError, match=f"no weights at .*; give the folder {run}, which"):
        read(run.parent)


def test_without_weights_near_it_what_is_expected_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "run"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=r"no weights at .*; expected a run's folder, .* or hf:USER/NAME"):
        read(folder)
    for name in ("config.json", "log.jsonl"):
        (folder / name).write_text("{}")
    with pytest.raises(DataError, match="has written no checkpoint yet; run its command again"):
        read(folder)


def test_a_state_dict_of_castssl_names_how_to_load_it(tmp_path: Path) -> None:
    encoder = create("nano", image_size=32)
    for state in (encoder.state_dict(), MoCoV3(encoder, hidden=8, out=4).state_dict()):
        torch.save(state, tmp_path / "sd.pth")
        with pytest.raises(DataError) as caught:
            load_encoder(tmp_path / "sd.pth")
        for word in ("castssl.create(", "load_state_dict", "save_pretrained"):
            assert word in str(caught.value)
