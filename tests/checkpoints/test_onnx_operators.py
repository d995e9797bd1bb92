from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from castssl.checkpoints.export import LIBRARIES
from castssl.checkpoints.onnx_operators import translations

DTYPES = [torch.float32, torch.int64, torch.uint8, torch.bool, torch.float16]


class Sorts(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for dtype in DTYPES:
            found += x.to(dtype).sort(dim=1, stable=True)
        return [*found, x.argsort(dim=0, descending=True, stable=True), x.argsort(stable=True)]


def test_stable_sorts_are_those_of_torch(tmp_path: Path) -> None:
    for library in LIBRARIES["onnx"]:
        pytest.importorskip(library)
    onnxruntime: Any = import_module("onnxruntime")
    x = torch.randint(0, 4, (5, 40), generator=torch.Generator().manual_seed(0)).float()
    path = tmp_path / "sorts.onnx"
    program = torch.export.export(Sorts(), (x,))
    written: Any = torch.onnx.export(
        program, dynamo=True, custom_translation_table=translations(), verbose=False
    )
    written.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for value, expected in zip(found, Sorts()(x), strict=True):
        assert torch.equal(torch.from_numpy(value), expected)
        assert torch.from_numpy(value).dtype == expected.dtype
