"""The export of a model of the published size, which takes half a minute, and of segmentation models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from castssl.checkpoints import Checkpoint, agreement
from castssl.checkpoints.export import Flat, FlatSegmenter, about, example, export, load, trace
from castssl.checkpoints.native import write
from castssl.cli import main
from castssl.models.create import create
from castssl.models.dense import DenseCAST
from castssl.objectives.segmentation import SegmentationModel
from castssl.registry import names

SPEC = "seeds:count=16"


def save(name: str, sizes: tuple[int, ...], folder: Path) -> Flat:
    """Save a model with a classifier of five classes into ``folder``, as a finished run does."""
    torch.manual_seed(0)
    encoder = create(name, image_size=32, sizes=sizes, superpixels=SPEC)
    head = nn.Linear(encoder.dim, 5)
    heads = {"head.weight": head.weight, "head.bias": head.bias}
    weights = Checkpoint(encoder.config, dict(encoder.state_dict()), heads, objective="deit")
    write(weights, folder / "encoder.safetensors")
    return Flat(encoder, [head]).eval()


def compare(flat: Flat, out: Path) -> None:
    """The file computes what the model does, for one image and for more."""
    assert about(out)["superpixels"] == SPEC
    run = load(out)
    for batch in (1, 3):
        image, segments = example(flat, 32, batch)
        with torch.no_grad():
            expected = flat(image, segments)
        found = run(image, segments)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-4, rtol=0)


def test_castssl_export_writes_cast_s_for_onnxruntime(tmp_path: Path) -> None:
    flat, out = save("cast_small", (16, 5, 4, 3, 2), tmp_path), tmp_path / "model.onnx"
    assert main(["export", str(tmp_path), "--out", str(out)]) == 0
    compare(flat, out)


POOLINGS = sorted(entry.name for entry in names("pooling"))


@pytest.mark.parametrize("pooling", [*POOLINGS, "graph:centroids=received"])
def test_each_pooling_computes_the_same_in_onnxruntime(pooling: str, tmp_path: Path) -> None:
    """Four stages, of which three are pooled, in batches of 1, 2 and 7; all segments have equal masses."""
    torch.manual_seed(0)
    encoder = create("nano", image_size=32, sizes=(16, 5, 4, 3), pooling=pooling)
    flat = Flat(encoder).eval()
    path = export(trace(flat, 32), tmp_path / "model.onnx", to="onnx")
    found = agreement.compare(flat, path, 32)
    assert found.random == (pooling == "random")
    assert found.holds
    if not found.random:
        assert found.strays == 0


HEADS = ["linear", "fused", "segmenter", "queries", "frozen-queries"]


@pytest.mark.parametrize(
    ("name", "head", "image_size"),
    [
        *[("nano", head, size) for head in HEADS for size in (32, 48, 64)],
        *[(name, head, 64) for head in ("linear", "queries") for name in ("nano_seg", "nano_vit")],
    ],
)
def test_segmentation_models_compute_the_same_in_onnxruntime(
    name: str, head: str, image_size: int, tmp_path: Path
) -> None:
    """Logits of segments and of pixels, for one image and for three."""
    torch.manual_seed(0)
    sizes = (64,) * 3 if name == "nano_vit" else (16, 5, 3, 2)
    encoder = create(name, image_size=32, sizes=sizes)
    flat = FlatSegmenter(SegmentationModel(encoder, head, 4)).eval()
    path = export(trace(flat, image_size), tmp_path / "model.onnx", to="onnx")
    for batch in (1, 3):
        most = agreement.difference(flat, path, *example(flat, image_size, batch))
        assert most.values < 1e-4
        assert most.labels == 0


@pytest.mark.parametrize("head", ["linear", "segmenter", "queries"])
def test_the_dense_model_computes_the_same_at_three_sizes(head: str, tmp_path: Path) -> None:
    """The model that is fine-tuned on VOC, narrow and with a block a stage; one image and three."""
    torch.manual_seed(0)
    narrow: dict[str, Any] = {"dim": 96, "heads": 2, "depths": (1, 1, 1, 1, 0), "sizes": (64, 20, 10, 5)}
    encoder = create("cast_small_dense", image_size=64, **narrow)
    assert isinstance(encoder, DenseCAST)
    flat = FlatSegmenter(SegmentationModel(encoder, head, 5)).eval()
    for size in (64, 96, 128):
        path = export(trace(flat, size), tmp_path / f"{size}.onnx", to="onnx")
        for batch in (1, 3):
            most = agreement.difference(flat, path, *example(flat, size, batch))
            assert most.values < 1e-4
            assert most.labels == 0
