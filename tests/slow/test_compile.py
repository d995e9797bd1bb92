"""Each preset as one compiled graph, with the depths of its stages: tracing takes seconds each."""

from __future__ import annotations

import pytest

from castssl.models.create import create
from castssl.models.presets import PRESETS
from tests.models.test_cast import one_graph, view

DISTINCT = [name for name in PRESETS if not any(word in name for word in ("base", "deep", "tome"))]


@pytest.mark.parametrize("name", DISTINCT)
def test_every_model_compiles_as_one_graph(name: str) -> None:
    """The others differ in width and number of blocks or stages; few tokens keep the sampling short."""
    preset = PRESETS[name]
    cells = (64 // preset.stride) ** 2
    sizes = (cells,) if len(preset.sizes) == 1 else (cells, 7, 5, 4, 3)[: len(preset.sizes)]
    model = create(name, image_size=64, sizes=sizes).eval()
    one_graph(model, view(2, cells=64 // preset.stride))
