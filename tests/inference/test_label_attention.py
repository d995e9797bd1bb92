"""``castssl attention --labels``: what labels attend to in image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import castssl
from castssl.checkpoints.classifier import save_classifier
from castssl.checkpoints.many_labels import load_many_labels
from castssl.cli import main
from castssl.datasets import many_labels
from castssl.errors import ConfigError
from castssl.inference.label_attention import columns_of
from castssl.objectives.averaged import Averaged
from castssl.registry import build
from castssl.visualization.photographs import photographs

LABELS = many_labels(("pet", "cat"), ("cat", "dog", "hen"))


def saved(folder: Path, spec: str = "multilabel:norm=pre") -> Path:
    torch.manual_seed(0)
    encoder = castssl.create("nano", image_size=32, sizes=(16, 8, 4, 2), superpixels="grid:cell=8")
    objective = build("objectives", spec, encoder, LABELS)
    assert isinstance(objective, Averaged)
    folder.mkdir(exist_ok=True)
    return save_classifier(objective, folder / "encoder.safetensors", spec=spec, labels=LABELS)


def test_a_picture_and_arrays_that_are_not_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    photographs()[0][1].resize((60, 40)).save(photo)
    command = ["attention", str(photo), "--weights", str(saved(tmp_path / "run")), "--out", str(out)]
    command += ["--device", "cpu", "--labels", "hen", "cat"]
    assert main(command) == 0
    assert "what 3 labels attend to in 1 of 1 images" in capsys.readouterr().out
    with np.load(out / "photo-labels.npz") as arrays:
        assert arrays["probabilities"].shape == (5,)
        for stage, size in enumerate((16, 8, 4)):
            attention, labels = arrays[f"attention{stage}"], arrays[f"labels{stage}"]
            assert attention.shape == (5, size)
            assert attention.sum(1) == pytest.approx(np.ones(5), abs=1e-5)
            assert labels.shape == (32, 32)
            assert set(np.unique(labels)) <= set(range(size))
    drawn = Image.open(out / "photo-labels.png")
    assert drawn.width > 4 * 144
    assert drawn.height > 3 * 144
    (out / "photo-labels.png").write_bytes(b"mine")
    assert main(command) == 1
    assert "photo-labels.png" in capsys.readouterr().err
    assert (out / "photo-labels.png").read_bytes() == b"mine"
    assert main([*command, "--overwrite"]) == 0


def test_wrong_names_and_a_head_without_attention_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_many_labels(saved(tmp_path / "run"))
    assert columns_of(model, ["hen", "cat"]) == [4, 1, 2]
    with pytest.raises(ConfigError, match="'cats' is none of 5 labels, such as cat"):
        columns_of(model, ["hen", "cats"])
    photo = tmp_path / "photo.png"
    photographs()[0][1].resize((32, 32)).save(photo)
    plain = saved(tmp_path / "plain", "multilabel:head=plain")
    command = ["attention", str(photo), "--weights", str(plain), "--out", str(tmp_path), "--labels", "hen"]
    assert main([*command, "--device", "cpu"]) == 1
    assert "attend to nothing" in capsys.readouterr().err
    assert not list(tmp_path.glob("photo-labels*"))


@pytest.mark.parametrize("flags", [["--data", "demo"], []])
def test_labels_are_of_image_files(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attention", "--weights", "none", "--labels", "cat", *flags]) == 1
    assert "--labels draws image files" in capsys.readouterr().err
