"""Segmentation models: what was saved reads back, and other files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from castssl.checkpoints import read
from castssl.checkpoints.classifier import load_classifier
from castssl.checkpoints.native import save_encoder, write
from castssl.checkpoints.segmenter import load_segmenter, segmenter_weights
from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.segmentation import Segmentation
from castssl.types import View

TREE = LabelTree.flat(["sky", "sea"])
PALETTE = ((1, 2, 3), (255, 0, 9))


def save(folder: Path, head: str = "linear") -> Segmentation:
    torch.manual_seed(0)
    objective = Segmentation(create("nano_seg", image_size=32), TREE, head=head)
    path = folder / "encoder.safetensors"
    segmenter_weights(objective, head=head, labels=TREE, palette=PALETTE, shorter=48).write(path)
    return objective


@pytest.mark.parametrize("head", ["linear", "fused", "segmenter", "queries", "frozen-queries"])
def test_what_was_saved_has_the_same_logits(head: str, tmp_path: Path) -> None:
    objective = save(tmp_path, head).eval()
    loaded = load_segmenter(tmp_path)
    at = torch.arange(32) // 4
    view = View(torch.randn(1, 3, 32, 32), (at[:, None] * 8 + at).int()[None])
    with torch.no_grad():
        assert torch.equal(loaded.model(view), objective.model(view))
    assert (loaded.labels, loaded.palette, loaded.shorter) == (TREE, PALETTE, 48)
    assert not loaded.model.training


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_encoder(create("nano", image_size=32), tmp_path / "encoder.safetensors")
    with pytest.raises(DataError, match="an encoder without a head for segmentation; recipes/segment"):
        load_segmenter(tmp_path)
    save(tmp_path)
    with pytest.raises(DataError, match="classifies pixels, not images"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"palette": ((1, 2, 300),)}, "expected three numbers from 0 to 255"),
        ({"palette": PALETTE[:1]}, "1 colors"),
        ({"options": {"head": "linear"}}, "describe no segmentation model"),
        ({"options": {"head": "fused", "shorter": 48}}, "head."),
        ({"labels": LabelTree.flat("abc")}, "2 colors"),
    ],
)
def test_damaged_settings_are_refused(change: dict[str, object], words: str, tmp_path: Path) -> None:
    save(tmp_path)
    checkpoint = read(tmp_path)
    for name, value in change.items():
        setattr(checkpoint, name, value)
    write(checkpoint, tmp_path / "damaged.safetensors")
    with pytest.raises(DataError, match=words):
        load_segmenter(tmp_path / "damaged.safetensors")
