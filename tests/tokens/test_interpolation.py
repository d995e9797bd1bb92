"""Means over a resized grid, against torch's interpolation and a mean of its pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.tokens.interpolation import Mode, resized_mean
from castssl.tokens.segments import segment_mean
from castssl.types import View
from tests.models.test_dense import model

CASES = [((4, 4), (32, 32)), ((5, 3), (17, 31)), ((8, 6), (8, 6)), ((9, 7), (5, 4)), ((1, 1), (6, 6))]


def oracle(features: Tensor, segments: Tensor, size: int, mode: Mode) -> tuple[Tensor, Tensor]:
    """Features at every pixel, as in the published code."""
    fine = F.interpolate(features, segments.shape[-2:], mode=mode, align_corners=False)
    return segment_mean(fine.expand(len(segments), -1, -1, -1), segments, size)


def case(grid: tuple[int, int], side: tuple[int, int], images: int) -> tuple[Tensor, Tensor]:
    """Features of 2 or of shared images, and labels of which some are missing or out of range."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(images, 6, *grid, generator=draw, dtype=torch.float64)
    segments = torch.randint(-1, 13, (2, *side), generator=draw, dtype=torch.int32)
    return features, segments.masked_fill(segments == 4, 5)


@pytest.fixture(params=["sparse", "dense"])
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product with a sparse matrix, or, as on a device, with a dense one."""
    monkeypatch.setattr("castssl.tokens.interpolation.is_tracing", lambda: request.param == "dense")


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("grid", "side"), CASES)
def test_means_and_gradients_are_those_of_the_resized_grid(
    grid: tuple[int, int], side: tuple[int, int], mode: Mode, images: int
) -> None:
    features, segments = case(grid, side, images)
    results = []
    for method in (resized_mean, oracle):
        leaf = features.clone().requires_grad_()
        means, pixels = method(leaf, segments, 12, mode)
        (means * torch.linspace(-1, 1, means.numel()).view_as(means)).sum().backward()
        results.append((means, pixels, leaf.grad))
    # torch computes the bicubic weights in the accuracy of float32
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert not results[0][0][:, 4].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_keep_their_dtype_and_sums_are_float32(dtype: torch.dtype) -> None:
    features, segments = case((4, 4), (64, 64), 2)
    with torch.autocast("cpu", torch.bfloat16):
        means, pixels = resized_mean(features.to(dtype), segments, 12, "bilinear")
    assert (means.dtype, pixels.dtype) == (dtype, torch.float32)
    expected = oracle(features.to(dtype).double(), segments, 12, "bilinear")[0]
    torch.testing.assert_close(
        means.double(), expected, atol=torch.finfo(dtype).eps, rtol=torch.finfo(dtype).eps
    )


def test_images_do_not_mix() -> None:
    features, segments = case((4, 4), (16, 16), 2)
    whole = resized_mean(features, segments, 12, "bilinear")[0]
    alone = resized_mean(features[1:], segments[1:], 12, "bilinear")[0]
    torch.testing.assert_close(whole[1:], alone)


def test_the_dense_model_compiles_as_one_graph() -> None:
    """Where it takes the dense product; both agree."""
    dense = model()
    at = torch.arange(32) // 4
    view = View(torch.randn(2, 3, 32, 32), (at[:, None] * 8 + at).int().repeat(2, 1, 1))
    with torch.no_grad():
        compiled = torch.compile(lambda view: dense.tokenise(view, 64), fullgraph=True, backend="eager")
        for ours, theirs in zip(dense.tokenise(view, 64)[:3], compiled(view)[:3], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
