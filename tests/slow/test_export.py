"""The export of a model of the published size, which takes half a minute."""

from __future__ import annotations

from pathlib import Path

from castssl.cli import main
from tests.acceptance.test_export import compare, save


def test_castssl_export_writes_cast_s_for_onnxruntime(tmp_path: Path) -> None:
    flat, out = save("cast_small", (16, 5, 4, 3, 2), tmp_path), tmp_path / "model.onnx"
    assert main(["export", str(tmp_path), "--out", str(out)]) == 0
    compare(flat, out)
