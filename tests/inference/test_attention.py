"""``castssl attention``: heat maps of images, and scores of data with masks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import castssl
from castssl.checkpoints.classifier import save_classifier
from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.inference.attention import SCORES, class_attention_of, readers
from castssl.labels import LabelTree
from castssl.objectives.tree_kl import TreeKL
from castssl.visualization.photographs import photographs


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = castssl.create("nano", image_size=32, sizes=(16, 8, 4, 2), superpixels="grid:cell=8")
    return save_encoder(encoder, tmp_path_factory.mktemp("run") / "encoder.safetensors")


def test_maps_and_scores(
    image_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    photographs()[0][1].resize((60, 40)).save(photo)
    flags = ["--superpixels", "grid:cell=4", "--weights", str(weights), "--out", str(tmp_path)]
    flags += ["--device", "cpu", "--workers", "0"]
    assert main(["attention", str(photo), "--data", str(image_folder), "--image-size", "32", *flags]) == 0
    with np.load(tmp_path / "photo-attention.npz") as arrays:
        for stage, size in enumerate((16, 8, 4)):
            attention, labels = arrays[f"attention{stage}"], arrays[f"labels{stage}"]
            assert attention.shape[1] >= size
            assert (attention.sum(1) < 1).all()  # the class token attends to itself, too
            assert labels.shape == (40, 60)
            assert labels.max() < attention.shape[1]
    assert Image.open(tmp_path / "photo-attention.png").width > 3 * 144
    results = json.loads((tmp_path / SCORES).read_text())
    shown = capsys.readouterr().out
    assert f"{results['images']} images" in shown
    assert "stage 0, 64 tokens" in shown
    assert f"{100 * results['figure_iou_mean_stage2']:.1f}" in shown


def test_the_heads_of_h_cast_name_the_stages_that_they_read(tmp_path: Path) -> None:
    encoder = castssl.create("nano", image_size=32, sizes=(16, 8, 4, 2), superpixels="grid:cell=8")
    labels = LabelTree((2, 4), ((0, 0, 1, 1),), (("a", "b"), ("c", "d", "e", "f")))
    path = save_classifier(TreeKL(encoder, labels), tmp_path / "h.safetensors", spec="tree-kl", labels=labels)
    model = castssl.load(path, device="cpu")
    last = model.encoder.stages_with_cls - 1
    assert readers(model) == {last: "label level 0", last - 1: "label level 1"}
    _, stages = class_attention_of(photographs()[0][1].resize((32, 32)), model.encoder, readers(model))
    assert [stage.title for stage in stages] == [""] * (last - 1) + ["label level 1", "label level 0"]
    other = castssl.load(replace(model.checkpoint, objective="not-installed"), device="cpu")
    assert readers(other) == {}, "the encoder alone is needed"


def test_a_model_of_timm_has_its_own_mean_and_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_download(name: str, **options: Any) -> Any:
        return create(name, **{**options, "pretrained": False})

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", without_download)
    photographs()[0][1].save(tmp_path / "photo.png")
    flags = ["--weights", "timm:test_vit", "--image-size", "32", "--device", "cpu"]
    assert main(["attention", str(tmp_path / "photo.png"), *flags, "--out", str(tmp_path)]) == 0
    with np.load(tmp_path / "photo-attention.npz") as arrays:
        assert arrays["attention0"].shape == (2, 4)
        assert set(np.unique(arrays["labels0"])) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "needs image files, or --data"),
        (["photo.png"], "need --out DIR"),
        (["--data", "demo", "--mass", "0"], "expected a share above 0"),
        (["--data", "demo", "--weights", "timm:vit_none"], "timm knows no model 'vit_none'"),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str], message: str, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attention", "--weights", str(weights), *flags]) == 1
    assert message in capsys.readouterr().err
