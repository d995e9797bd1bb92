"""The command that exports, on weights of CAST-S's shape, and onnxruntime on what it wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from castssl.models.create import create
from castssl.transfer.encoders import save_encoder
from castssl.transfer.export import LIBRARIES, Flat, about, example, load

pytestmark = pytest.mark.recipe


def test_castssl_export_writes_what_onnxruntime_runs(tmp_path: Path) -> None:
    for library in LIBRARIES["onnx"]:
        pytest.importorskip(library)
    torch.manual_seed(0)
    settings: dict[str, Any] = {"image_size": 32, "sizes": (16, 5, 4, 3, 2)}
    encoder, head = create("cast_small", **settings), nn.Linear(384, 5)
    beside = {"head.weight": head.weight, "head.bias": head.bias}
    spec = "seeds:count=16"
    save_encoder(
        encoder,
        tmp_path / "encoder.safetensors",
        beside=beside,
        name="cast_small",
        superpixels=spec,
        **settings,
    )
    out = tmp_path / "cast.onnx"
    command: list[str | Path] = [Path(sys.executable).with_name("castssl"), "export", tmp_path, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "0.00% other labels" in done.stdout
    assert about(out)["superpixels"] == spec
    flat, run = Flat(encoder, [head]).eval(), load(out)
    for batch in (1, 3):
        image, segments = example(flat, 32, batch)
        with torch.no_grad():
            expected = flat(image, segments)
        found = run(image, segments)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-4, rtol=0)
