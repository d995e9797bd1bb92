"""The benchmarks refuse numbers that give an empty table or none before they measure anything."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from castssl.errors import ConfigError
from recipes.benchmarks import (
    boundary,
    cache,
    dense,
    drawings,
    model,
    multilabel,
    parts,
    resolution,
    soft_labels,
    stages,
    train,
)
from recipes.benchmarks import input as views

NEEDED: dict[ModuleType, dict[str, str]] = {
    parts: {"data": "demo", "segmenter": "merge"},
    soft_labels: {"data": "demo", "weights": "nowhere"},
}
"""Settings without a default."""


@pytest.mark.parametrize(
    ("benchmark", "settings", "message"),
    [
        (cache, {"rounds": 1}, "--rounds: got 1, expected 2 or more: the first one fills the cache"),
        (cache, {"epochs": 0}, "--epochs: got 0, expected 1 or more"),
        (cache, {"runs": ()}, "--runs: got nothing, expected one value or more"),
        (cache, {"runs": (0, -1)}, "--runs: got -1, expected 0 or more"),
        (cache, {"size": 0}, "--size: got 0, expected 1 or more"),
        (boundary, {"rounds": 0}, "--rounds: got 0, expected 1 or more"),
        (boundary, {"regions": (6, 0)}, "--regions: got 0, expected 1 or more"),
        (boundary, {"regions": ()}, "--regions: got nothing"),
        (boundary, {"classes": 0}, "--classes: got 0, expected 1 or more"),
        (boundary, {"side": 0}, "--side: got 0, expected 8 or more"),
        (dense, {"rounds": 0}, "--rounds: got 0, expected 1 or more"),
        (dense, {"batch": 0}, "--batch: got 0, expected 1 or more"),
        (dense, {"threads": 0}, "--threads: got 0, expected 1 or more"),
        (drawings, {"copies": 0}, "--copies: got 0, expected 1 or more"),
        (drawings, {"per_class": -1}, "--per-class: got -1, expected 0 or more"),
        (drawings, {"classes": ()}, "--classes: got nothing"),
        (drawings, {"val_share": 1.0}, "--val-share: got 1.0, expected a number between 0 and 1"),
        (model, {"rounds": 0}, "--rounds: got 0, expected 1 or more"),
        (model, {"models": ()}, "--models: got nothing"),
        (model, {"batch": -1}, "--batch: got -1, expected 1 or more"),
        (multilabel, {"rounds": -1}, "--rounds: got -1, expected 0 or more"),
        (multilabel, {"labels": 0}, "--labels: got 0, expected 1 or more"),
        (multilabel, {"batch": 0}, "--batch: got 0, expected 1 or more"),
        (parts, {"image_size": 0}, "--image-size: got 0, expected 1 or more"),
        (resolution, {"rounds": 0}, "--rounds: got 0, expected 1 or more"),
        (resolution, {"sides": ()}, "--sides: got nothing"),
        (resolution, {"sides": (512, 0)}, "--sides: got 0, expected 64 or more"),
        (resolution, {"sides": (100,)}, "--sides: got 100, expected multiples of 64"),
        (soft_labels, {"image_size": -1}, "--image-size: got -1, expected 0 or more"),
        (stages, {"rounds": 0}, "--rounds: got 0, expected 1 or more"),
        (stages, {"batch": 0}, "--batch: got 0, expected 1 or more"),
        (train, {"processes": (1, 0)}, "--processes: got 0, expected 1 or more"),
        (train, {"processes": ()}, "--processes: got nothing"),
        (train, {"seconds": float("nan")}, "--seconds: got nan, expected 1 or more"),
        (views, {"rounds": 0}, "--rounds: got 0, expected 1 or more"),
        (views, {"images": 0}, "--images: got 0, expected 1 or more"),
    ],
    ids=lambda value: value.__name__.rpartition(".")[2] if isinstance(value, ModuleType) else str(value),
)
def test_a_number_without_a_result_is_refused(
    benchmark: ModuleType, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        benchmark.main(benchmark.Config(**NEEDED.get(benchmark, {}), **settings))
