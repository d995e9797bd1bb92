"""Other sizes with the same weights."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from castssl.errors import ConfigError
from castssl.models.create import create
from castssl.models.sizes import sizes_for, with_sizes
from castssl.registry import build
from castssl.types import Hierarchy, View


def tensors(hierarchy: Hierarchy) -> list[Tensor]:
    return [*hierarchy.assigns, *(field for stage in hierarchy.stages for field in stage[:3])]


def test_larger_sizes_and_more_superpixels_are_a_model_built_so() -> None:
    """Trained at 196, 64, 32, 16; used at 324, 128, 64, 32 as in Table 5d, with 324 SEEDS superpixels."""
    torch.manual_seed(0)
    trained = create("nano", sizes=(196, 64, 32, 16)).eval()
    backend = build("superpixels", "seeds:count=324,iterations=4")
    image = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    view = View(image / 255.0, backend(image))
    assert 196 < int(view.segments.max()) + 1 <= backend.capacity(224, 224) <= 324
    wanted = (324, 128, 64, 32)
    larger, built = with_sizes(trained, wanted), create("nano", sizes=wanted).eval()
    built.load_state_dict(trained.state_dict())
    with torch.no_grad():
        for name in ("forward", "segment"):
            got, expected = (getattr(model, name)(view) for model in (larger, built))
            assert [stage.x.shape[1] for stage in got.stages] == list(wanted[: len(got.stages)])
            for a, b in zip(tensors(got), tensors(expected), strict=True):
                assert torch.isfinite(a).all()
                assert torch.equal(a, b)


def test_both_are_the_same_weights_and_keep_their_own_sizes() -> None:
    encoder = create("nano")
    other = with_sizes(encoder, (100, 20, 10))
    assert (encoder.sizes, other.sizes) == ((64, 32, 16, 8), (100, 20, 10, 5))
    assert isinstance(encoder, nn.Module)
    assert isinstance(other, nn.Module)
    for a, b in zip(encoder.parameters(), other.parameters(), strict=True):
        assert a is b
    other.to(torch.float64)
    assert {p.dtype for p in encoder.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("name", "options", "sizes", "message"),
    [
        ("nano", {}, (64, 32), "4 stages"),
        ("nano", {}, (64, 32, 48, 8), "from fine to coarse"),
        ("nano", {"sizes": (64, 64, 16, 8)}, (64, 32, 16, 8), "no pooling from 64 to 64"),
        ("timm:resnet10t", {}, (49,), "only a CAST has sizes"),
    ],
)
def test_sizes_that_the_weights_cannot_serve(
    name: str, options: dict[str, Any], sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        with_sizes(create(name, **options), sizes)


@pytest.mark.parametrize("segments", [10, 64, 324])
def test_the_first_size_follows_the_superpixels(segments: int) -> None:
    encoder = create("nano")
    found = sizes_for(encoder, segments)
    assert found[0] >= segments
    assert found[1:] == encoder.sizes[1:]
    assert all(fine >= coarse for fine, coarse in pairwise(found))
    assert sizes_for(encoder, segments, (400, 9, 8)) == (400, 9, 8)


def test_too_many_superpixels_for_the_sizes_given() -> None:
    with pytest.raises(ConfigError, match="up to 324 superpixels"):
        sizes_for(create("nano"), 324, (196, 64, 32))
