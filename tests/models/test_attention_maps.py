"""The class token's attention against the attention that the blocks themselves apply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

import castssl
from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.models.attention_maps import class_attention
from castssl.models.timm_encoder import TimmEncoder
from castssl.testing.samples import SampleEncoder
from castssl.types import View

SIDE = 32


@pytest.fixture
def view() -> View:
    draw = torch.Generator().manual_seed(0)
    cells = torch.arange(SIDE) // 8
    segments = (cells[:, None] * 4 + cells).int().expand(2, -1, -1).clone()
    segments[1] = segments[1].clamp(max=9)  # six tokens are padding
    return View(torch.randn(2, 3, SIDE, SIDE, generator=draw), segments)


def cast(**options: Any) -> Encoder:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"image_size": SIDE, "sizes": (16, 8, 4, 2), "superpixels": "grid:cell=8"}
    return castssl.create("nano", **shape, **options).eval()


def vit(name: str, stages: int = 1) -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder(name, image_size=SIDE, stages=stages).eval()


def applied(encoder: Encoder, view: View) -> Iterator[Tensor]:
    """What the blocks multiply values with, float (B, heads, N, N), as timm's unfused path computes it."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept.append(args[0])

    named = [(name, part) for name, part in encoder.named_modules() if isinstance(part, Attention)]
    for part in (part for name, part in named if not name.startswith("poolings")):
        part.fused_attn = False  # type: ignore[misc] # timm's constant
        part.attn_drop.register_forward_pre_hook(keep)
    encoder(view)
    yield from kept


@pytest.mark.parametrize("padding", ["mask", "reference"])
def test_of_cast_they_are_those_of_the_last_block_of_each_stage(padding: Any, view: View) -> None:
    encoder = cast(padding=padding)
    with torch.no_grad(), class_attention(encoder) as weights:
        hierarchy = encoder(view)
    with torch.no_grad():
        blocks = list(applied(encoder, view))
    depths = encoder.config.depths
    assert list(weights) == list(range(len(hierarchy.stages)))
    for stage, tokens in enumerate(hierarchy.stages):
        assert weights[stage].shape == (2, encoder.config.heads, tokens.x.shape[1])
        torch.testing.assert_close(weights[stage], blocks[sum(depths[: stage + 1]) - 1][:, :, 0, 1:])
    padded = weights[0][1][:, hierarchy.stages[0].mass[1] == 0]
    assert padded.shape[1] == 6
    assert bool((padded == 0).all()) == (padding == "mask")


@pytest.mark.parametrize(
    ("name", "stages", "ends", "prefix"),
    [
        ("deit_tiny_patch16_224", 1, [12], 1),
        ("deit_tiny_patch16_224", 4, [3, 6, 9, 12], 1),
        ("vit_small_patch14_reg4_dinov2", 1, [12], 5),
    ],
)
def test_of_a_vit_too(name: str, stages: int, ends: list[int], prefix: int, view: View) -> None:
    if "patch14" in name:
        view = View(torch.nn.functional.interpolate(view.image, size=28), view.segments[:, :28, :28])
    encoder = TimmEncoder(name, image_size=view.image.shape[-1], stages=stages).eval()
    with torch.no_grad(), class_attention(encoder) as weights:
        encoder(view)
    with torch.no_grad():
        blocks = list(applied(encoder, view))
    assert list(weights) == list(range(stages))
    for stage, end in enumerate(ends):
        assert weights[stage].shape[2] == encoder.sizes[0]
        torch.testing.assert_close(weights[stage], blocks[end - 1][:, :, 0, prefix:])


def test_the_hooks_change_nothing_and_are_removed(view: View) -> None:
    encoder = cast()
    with torch.no_grad():
        before = encoder(view)
        with class_attention(encoder) as weights:
            during = encoder(view)
        weights.clear()
        encoder(view)
    assert not weights
    assert torch.equal(before.stages[-1].cls, during.stages[-1].cls)


@pytest.mark.parametrize("encoder", [SampleEncoder(), TimmEncoder("resnet10t", image_size=SIDE)])
def test_encoders_without_a_class_token_are_refused(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="no attention of a class token"), class_attention(encoder):
        pass
