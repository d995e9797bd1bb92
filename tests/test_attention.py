"""Attention on a processor: timm's in float32, and float32 inside under autocast to half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import attention
from torch import Tensor

from castssl.attention import Attention
from castssl.contracts import Encoder
from castssl.models.create import create
from castssl.pooling import centroids
from castssl.types import View

DIM, HEADS = 24, 3


def pair() -> tuple[Attention, attention.Attention]:
    """Both attentions, with the same weights."""
    torch.manual_seed(0)
    theirs = attention.Attention(DIM, HEADS, qkv_bias=True)
    ours = Attention(DIM, HEADS, qkv_bias=True)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(kind: str) -> tuple[Tensor, dict[str, Any]]:
    x = torch.randn(2, 9, DIM)
    present = torch.arange(9) < torch.tensor([9, 6])[:, None]
    if kind == "causal":
        return x, {"is_causal": True}
    if kind == "bias":
        return x, {"attn_mask": torch.randn(2, 1, 1, 9)}
    return x, {"attn_mask": present[:, None, None]} if kind == "mask" else {}


@pytest.mark.parametrize("kind", ["none", "mask", "bias", "causal"])
def test_float32_is_timms_to_the_last_bit(kind: str) -> None:
    x, options = inputs(kind)
    results: list[list[Tensor | None]] = []
    for module in pair():
        out = module(x, **options)
        out.square().sum().backward()
        results.append([out, *(weight.grad for weight in module.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["none", "mask", "bias", "causal"])
def test_a_model_in_bfloat16_returns_bfloat16(kind: str) -> None:
    module, _ = pair()
    x, options = inputs(kind)
    expected = module(x, **options)
    if kind == "bias":
        options = {"attn_mask": options["attn_mask"].bfloat16()}
    found = module.bfloat16()(x.bfloat16(), **options)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.05)


def test_autocast_leaves_the_products_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair()
    x, options = inputs("mask")
    exact = theirs.double()(x.double(), **options)
    kernel, seen = torch.nn.functional.scaled_dot_product_attention, []

    def recorded(query: Tensor, *rest: Any, **named: Any) -> Tensor:
        out = kernel(query, *rest, **named)
        seen.append((query.dtype, out.dtype))
        return out

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x, **options)
        before = theirs.float()(x, **options)
    assert seen[0] == (torch.float32, torch.float32)
    assert seen[1][1] == torch.bfloat16
    assert found.dtype == torch.bfloat16
    error, error_before = ((out - exact).norm() for out in (found, before))
    assert error < 1.05 * error_before


def run(model: Encoder, view: View, half: bool, picks: list[Tensor]) -> list[Tensor]:
    """The class token and all gradients; ``picks`` are the centroids, in half precision those of before."""
    sample = centroids.farthest

    def pick(*given: Any, **options: Any) -> Tensor:
        if not half:
            picks.append(sample(*given, **options))
        return picks.pop(0) if half else picks[-1]

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16, enabled=half):
        patch.setattr(centroids, "farthest", pick)
        cls = model(view).stages[-1].cls
    model.zero_grad()
    assert cls is not None
    (cls.float() * torch.linspace(-1, 1, cls.shape[-1])).sum().backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return [cls.detach().float(), torch.cat(gradients)]


def test_a_whole_model_in_half_precision_is_as_exact_as_with_timms_attention() -> None:
    cell = torch.arange(64) // 8
    view = View(torch.randn(2, 3, 64, 64), (cell[:, None] * 8 + cell).int().repeat(2, 1, 1))
    shares = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = create("nano", image_size=64).eval()
        picks: list[Tensor] = []
        full, *halves = run(model, view, False, picks), run(model, view, True, picks.copy())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Attention, "forward", attention.Attention.forward)
            halves.append(run(model, view, True, picks))
        shares.append(
            [[(a - b).norm() / b.norm() for a, b in zip(half, full, strict=True)] for half in halves]
        )
    ours, timms = torch.tensor(shares).mean(0)
    assert (timms < 0.03).all()
    assert (ours < 1.05 * timms).all()
