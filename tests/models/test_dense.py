"""Tokens at the label map's resolution, against a loop over segments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.encoder_config import EncoderConfig
from castssl.models.create import create
from castssl.models.dense import DenseCAST
from castssl.types import View

SHAPE = EncoderConfig("mine", (1, 1, 0), (64, 9, 4), dim=48, fused=True, dense=True)


def model(**options: Any) -> DenseCAST:
    torch.manual_seed(0)
    built = create(SHAPE, image_size=32, **options)
    assert isinstance(built, DenseCAST)
    return built.eval()


def cells(side: int, count: int = 8) -> Tensor:
    """``count`` x ``count`` square superpixels of a map with this side."""
    at = torch.arange(side) * count // side
    return at[:, None] * count + at


@pytest.mark.parametrize("side", [32, 16, 24])
def test_a_mean_over_the_pixels_of_each_segment(side: int) -> None:
    """64 superpixels on 4 x 4 stem cells; the map may be smaller than the image."""
    dense = model()
    view = View(torch.randn(2, 3, 32, 32), torch.stack([cells(side), cells(side).clamp(max=40)]))
    with torch.no_grad():
        tokens = dense.tokenise(view, 64)
        features = F.interpolate(dense.stem(view.image), (side, side), mode="bilinear")
        positions = F.interpolate(dense.positions, (side, side), mode="bicubic")
    for image in range(2):
        for label in range(64):
            inside = view.segments[image] == label
            mass = inside.sum() * 16 / side**2
            torch.testing.assert_close(tokens.mass[image, label], mass)
            if mass == 0:
                assert not tokens.x[image, label].any()
                continue
            mean = features[image][:, inside].mean(1) + positions[0][:, inside].mean(1)
            torch.testing.assert_close(tokens.x[image, label], mean, atol=1e-5, rtol=1e-5)


def test_the_hierarchy_labels_the_map() -> None:
    dense = model()
    view = View(torch.randn(1, 3, 32, 32), cells(16)[None])
    with torch.no_grad():
        hierarchy, fused = dense.fuse(view)
    assert fused.shape == (1, 65, 48)
    assert hierarchy.labels(1).shape == (1, 16, 16)
    assert set(hierarchy.labels(0).flatten().tolist()) == set(range(64))


def test_empty_tokens_have_a_parent_in_the_published_way_only() -> None:
    """Their rows of the fused tokens come from the cluster that their own logits prefer."""
    view = View(torch.randn(1, 3, 32, 32), cells(16).clamp(max=40)[None])
    dense = model(padding="reference", pooling="graph:heads=12,padding=reference")
    with torch.no_grad():
        hierarchy, _ = dense.fuse(view)
        logits, _ = dense.poolings[0].logits(hierarchy.stages[0], 9)  # type: ignore[operator]
    published = dense._parents(hierarchy, None)[1]
    assert torch.equal(published, logits.argmax(-1))
    assert torch.equal(published[:, :41], hierarchy.parents(1)[:, :41])
