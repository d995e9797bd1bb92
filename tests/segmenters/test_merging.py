"""``merge`` as a segmenter, against the function that the evaluators use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from castssl.errors import ConfigError
from castssl.registry import build, build_segmenter
from castssl.superpixels.merge import merge
from castssl.testing.segmenters import images

IMAGE = images()["sample-1.png"]


@pytest.mark.parametrize("by", ["color", "neighbors", "random"])
def test_it_is_the_merge_of_the_evaluators(by: str) -> None:
    pixels = torch.from_numpy(IMAGE).permute(2, 0, 1).contiguous()
    segments = build("superpixels", "grid:cell=8")(pixels[None])[0]
    segmenter = build_segmenter(f"merge:by={by},sizes=(9,4),superpixels=grid:cell=8,seed=3")
    maps = segmenter(IMAGE)
    assert np.array_equal(maps, merge(pixels, segments, (9, 4), by=by, seed=3).numpy())
    assert maps.max((1, 2)).tolist() == [8, 3]
    assert segmenter.nested


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("merge:runs/demo", "got the source 'runs/demo'"),
        ("merge:by=size", r"one of color, .*got 'size'"),
        ("merge:sizes=8", r"fine to coarse.*got 8"),
        ("merge:sizes=(8,16)", r"got \(8, 16\)"),
        ("merge:sizes=(8,0)", r"got \(8, 0\)"),
        ("merge:size=(8,)", "did you mean 'sizes'"),
    ],
)
def test_other_options_are_refused(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_segmenter(spec)
