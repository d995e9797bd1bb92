"""The tokens that heads for segmentation read, of all kinds of encoders."""

from __future__ import annotations

import pytest
import torch

from castssl.errors import ConfigError
from castssl.models.create import create
from castssl.models.presets import PRESETS
from castssl.registry import build
from castssl.superpixel_labels import partition
from castssl.types import View

TABLE_3A = {
    "cast_small_seg": (8, (196, 64, 32, 16, 8), "seeds"),
    "vit_small_seg": (16, (196,), "grid:cell=16"),
    "vit_small_superpixels_seg": (8, (196,), "seeds"),
    "vit_small_pooling_seg": (16, (196, 64, 32, 16, 8), "grid:cell=16"),
    "nano_seg": (4, (64, 32, 16, 8), "seeds:count=64,bins=5,iterations=4"),
    "nano_vit_seg": (8, (64,), "grid:cell=8"),
    "nano_vit_superpixels_seg": (4, (64,), "seeds:count=64,bins=5,iterations=4"),
    "nano_vit_pooling_seg": (8, (64, 32, 16, 8), "grid:cell=8"),
}


def view(superpixels: str, side: int) -> View:
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, side, side), generator=draw, dtype=torch.uint8)
    return View(image / 127.5 - 1, partition(build("superpixels", superpixels), image))


@pytest.mark.parametrize("name", TABLE_3A)
def test_the_rows_of_table_3a_differ_in_two_factors(name: str) -> None:
    config = PRESETS[name]
    assert (config.stride, config.sizes, config.superpixels) == TABLE_3A[name]
    assert config.fused
    assert sum(config.depths) == (3 if name.startswith("nano") else 11)


@pytest.mark.parametrize("name", ["nano", "nano_vit", *(name for name in TABLE_3A if "nano" in name)])
def test_all_models_have_dense_tokens(name: str) -> None:
    encoder = create(name, image_size=64).eval()
    images = view(encoder.config.superpixels, 64)
    with torch.no_grad():
        found = encoder.dense(images)
    assert found.x.shape == (2, 64, encoder.dense_dim)
    assert found.grid == ((8, 8) if "grid" in encoder.config.superpixels else None)
    assert torch.equal(found.labels, images.segments)


def test_without_fusion_the_stages_lie_side_by_side() -> None:
    encoder = create("nano").eval()
    images = view(encoder.config.superpixels, 64)
    with torch.no_grad():
        found, hierarchy = encoder.dense(images), encoder(images)
    for at, stage in enumerate(hierarchy.stages):
        expected = stage.x[0, hierarchy.parents(at)[0, 5]]
        if at == 2:
            assert encoder.last_norm is not None
            expected = encoder.last_norm(expected)
        torch.testing.assert_close(found.x[0, 5, at * 64 : at * 64 + 64], expected)


@pytest.mark.parametrize(("name", "cells"), [("timm:test_vit", 16), ("timm:test_resnet", 4)])
def test_a_timm_model_has_its_grid(name: str, cells: int) -> None:
    """Of a convolutional network these are the cells of its last feature map."""
    encoder = create(name, image_size=64).eval()
    with torch.no_grad():
        found = encoder.dense(View(torch.randn(2, 3, 64, 64), torch.zeros(2, 0, 0, dtype=torch.int32)))
    side = int(cells**0.5)
    assert found.grid == (side, side)
    assert found.x.shape == (2, cells, encoder.dense_dim)
    assert found.labels[0, 0].tolist() == [at * side // 64 for at in range(64)]


def test_a_timm_model_takes_other_shapes_or_refuses_them() -> None:
    encoder = create("timm:test_vit", image_size=64).eval()
    empty = torch.zeros(1, 0, 0, dtype=torch.int32)
    with torch.no_grad():
        assert encoder.dense(View(torch.randn(1, 3, 64, 64), empty)).grid == (4, 4)
        assert encoder.dense(View(torch.randn(1, 3, 96, 64), empty)).grid == (6, 4)
        with pytest.raises(ConfigError, match=r"takes no images of 64 x 70 pixels .*--window 64"):
            encoder.dense(View(torch.randn(1, 3, 64, 70), empty))


@pytest.mark.parametrize("name", ["nano_vit_seg", "nano_seg"])
def test_one_stage_trains_with_padding_as_published(name: str) -> None:
    encoder = create(name, padding="reference").train()
    images = view(encoder.config.superpixels, 64)
    encoder.dense(images).x.square().mean().backward()
    idle = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
