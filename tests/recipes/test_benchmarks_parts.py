"""A run of the study of parts; its encoder has random weights, and its figures mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from castssl.datasets.part_sets import open_parts
from castssl.errors import ConfigError, DataError
from castssl.evaluation.parts import score_parts
from castssl.registry import build_segmenter
from recipes.benchmarks.parts import Config, main

DATA = "demo:size=32,per_class=1"


@pytest.mark.recipe
def test_the_two_coarsest_levels_are_measured_by_their_number_of_segments(tmp_path: Path) -> None:
    spec = "merge:sizes=(24,16,8)"
    main(Config(data=DATA, segmenter=spec, out=tmp_path))
    found = json.loads((tmp_path / "results.json").read_text())["trained"]
    (row,) = score_parts({spec: build_segmenter(spec)}, open_parts(DATA, "val"), recall=True)[spec].rows
    assert found["objects_8"] == row.objects.region_iou
    assert found["objects_16"] > found["objects_8"]
    assert found["parts_16"] == row.parts.region_iou
    assert found["part_recall"] == row.parts.recall
    assert set(found) == {
        *("objects_8", "objects_16", "object_boundary_8", "object_boundary_16", "object_recall"),
        *("parts_16", "part_boundary_16", "part_recall"),
    }
    with pytest.raises(ConfigError, match=r"results\.json"):
        main(Config(data=DATA, segmenter=spec, out=tmp_path))


@pytest.mark.recipe
def test_new_weights_are_drawn_by_the_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        main(Config(data=DATA, segmenter="cast:WEIGHTS", model="nano", seed=seed, out=tmp_path / str(seed)))
    first, second = ((tmp_path / str(seed) / "new.safetensors").read_bytes() for seed in (0, 1))
    assert first != second


def test_a_path_of_weights_may_contain_what_stands_for_the_seed(tmp_path: Path) -> None:
    missing = tmp_path / "SEED-3" / "encoder.safetensors"
    with pytest.raises(DataError, match="SEED-3"):
        main(Config(data=DATA, segmenter="cast:WEIGHTS", weights=str(missing), seed=5, out=tmp_path))


def test_weights_are_given_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="or a new --model"):
        main(Config(data=DATA, segmenter="cast:WEIGHTS", out=tmp_path))
    with pytest.raises(ConfigError, match="or a new --model"):
        main(Config(data=DATA, segmenter="cast:WEIGHTS", weights="x", model="nano", out=tmp_path))
