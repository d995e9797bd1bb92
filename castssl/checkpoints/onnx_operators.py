"""Operators of poolings that torch's export to ONNX does not translate."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

WIDE = {"FLOAT", "DOUBLE", "INT32", "INT64"}
"""The types of ONNX that onnxruntime's TopK takes."""
EXACT = {"FLOAT16": "FLOAT", "BFLOAT16": "FLOAT"}
"""What other types are sorted in, without a change of their order; for all that are not named, INT64."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For ``torch.onnx.export``: operators, each with what builds its graph; needs onnxscript."""
    return {torch.ops.aten.sort.stable: stable_sort}


def stable_sort(self, stable=None, dim=-1, descending=False):  # type: ignore[no-untyped-def]
    """``aten::sort.stable`` by ONNX's TopK of all, which puts the lower index first of equal values.

    The names are those of the operator's arguments.
    """
    ir, op = import_module("onnx_ir"), import_module("onnxscript").opset18
    count = op.Reshape(
        op.Gather(op.Shape(self), op.Constant(value_int=dim), axis=0), op.Constant(value_ints=[1])
    )
    name = self.dtype.name
    if name in WIDE:
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)
    wide = op.Cast(self, to=ir.DataType[EXACT.get(name, "INT64")])
    values, indices = op.TopK(wide, count, axis=dim, largest=int(descending), sorted=1)
    return op.Cast(values, to=self.dtype), indices
