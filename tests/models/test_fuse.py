"""The batch norm of the fusion, against torch's own on the valid rows alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from castssl.models.create import create
from castssl.models.fuse import FusedCAST, Fusion
from castssl.testing.claims import claim_trained
from castssl.testing.processes import WORLD, together
from castssl.types import View

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def fusion() -> Fusion:
    torch.manual_seed(0)
    built = Fusion(8, 2)
    nn.init.normal_(built.norm.weight)
    nn.init.normal_(built.norm.bias)
    built.dropout.p = 0.0
    return built


def rows(images: int = 4, count: int = 9) -> tuple[Tensor, Tensor]:
    """Tokens far from 0, and which are valid: 9, 8, 7, ... of each image; padding is far from them."""
    draw = torch.Generator().manual_seed(1)
    valid = torch.arange(count)[None] < count - torch.arange(images)[:, None]
    x = 100 + torch.randn(images, count, 16, generator=draw)
    return x.where(valid[..., None], torch.tensor(1e3)), valid


def step(model: Fusion, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The result, and the gradient of a loss on its valid rows in the input."""
    x = x.clone().requires_grad_()
    out = model(x, valid)
    kept = out if valid is None else out[valid]
    (kept * torch.linspace(-1, 1, kept.numel()).view_as(kept)).sum().backward()
    assert x.grad is not None
    return out, x.grad


def test_statistics_are_those_of_the_valid_rows() -> None:
    """The oracle: torch's batch norm, which is given the valid rows alone."""
    x, valid = rows()
    ours, oracle = fusion(), fusion()
    out, gradient = step(ours, x, valid)
    expected, expected_gradient = step(oracle, x[valid][None], None)
    torch.testing.assert_close(out[valid], expected[0], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gradient[valid], expected_gradient[0], atol=1e-4, rtol=1e-4)
    assert not gradient[~valid].any()
    for name in STATISTICS:
        torch.testing.assert_close(getattr(ours.norm, name), getattr(oracle.norm, name), rtol=1e-5, atol=1e-5)
    for a, b in zip(ours.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-4)


def test_without_valid_rows_named_padding_counts_as_published() -> None:
    x, _ = rows()
    ours, oracle = fusion(), fusion()
    normed = oracle.norm(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours(x), oracle.linear(normed))
    torch.testing.assert_close(ours.norm.running_mean, oracle.norm.running_mean)


def test_no_valid_row_at_all_is_finite() -> None:
    x, valid = rows()
    out, gradient = step(fusion(), x, torch.zeros_like(valid))
    assert out.isfinite().all()
    assert gradient.isfinite().all()


def test_all_that_is_trained_gets_a_gradient_where_the_last_pooling_keeps_the_class_token() -> None:
    """DDP waits for it; no loss reads the tokens of that pooling."""
    torch.manual_seed(0)
    encoder = create("nano_seg", image_size=32, sizes=(16, 8, 4, 2), pooling="graph:cls=keep")
    labels = (torch.arange(32) // 8)[:, None] * 4 + torch.arange(32) // 8
    view = View(torch.randn(2, 3, 32, 32), labels.int().expand(2, -1, -1))
    for part in (encoder(view).stages[-1].cls, encoder.dense(view).x):
        encoder.zero_grad()
        part.square().sum().backward()
        claim_trained(encoder)
    last = [p.grad for name, p in encoder.named_parameters() if name.startswith("poolings.2.")]
    assert not any(grad.any() for grad in last if grad is not None)


def test_in_evaluation_mode_the_running_statistics_are_used() -> None:
    x, valid = rows()
    model = fusion()
    model(x, valid)
    model.eval()
    before = copy.deepcopy(model.state_dict())
    torch.testing.assert_close(model(x, valid), model(x))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def model(padding: str = "mask") -> FusedCAST:
    """In training mode, but for what else runs over the batch or draws."""
    torch.manual_seed(0)
    built = create("nano", image_size=32, sizes=(64, 16, 8, 4), fused=True, padding=padding)
    assert isinstance(built, FusedCAST)
    built.double().train()
    built.stem.eval()
    for module in built.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return built


def view(images: int, *, blank: bool = False) -> View:
    """Images of 40 superpixels, and behind them one without any."""
    draw = torch.Generator().manual_seed(2)
    image = torch.randn(images, 3, 32, 32, generator=draw).double()
    at = torch.arange(32) // 4
    segments = (at[:, None] * 8 + at).int().clamp(max=39).repeat(images, 1, 1)
    if blank:
        image = torch.cat([image, torch.zeros_like(image[:1])])
        segments = torch.cat([segments, torch.full_like(segments[:1], -1)])
    return View(image, segments)


@pytest.mark.parametrize("padding", ["mask", "reference"])
def test_an_image_alone_equals_the_same_beside_a_blank_one(padding: str, monkeypatch: Any) -> None:
    """In training mode, gradients too; the published way is another, as padding takes part."""
    monkeypatch.setattr("castssl.models.cast.bounded", lambda segments, size, whose: segments)
    found = []
    for blank in (False, True):
        fused = model(padding)
        out = fused.fuse(view(1, blank=blank))[1][0, :41]
        out.square().sum().backward()
        found.append([out, *(getattr(fused.fusion.norm, name) for name in STATISTICS)])
        found[-1] += [p.grad for p in fused.parameters() if p.grad is not None]
    equal = [bool(torch.allclose(a, b, atol=1e-6, rtol=1e-6)) for a, b in zip(*found, strict=True)]
    assert all(equal) if padding == "mask" else not any(equal[:3])


def one_of_two(rank: int) -> None:
    """Half of the images each, with other numbers of valid rows; the norm is converted, as runs do."""
    x, valid = rows()
    ours: Any = nn.SyncBatchNorm.convert_sync_batchnorm(fusion())
    half = slice(rank * 2, rank * 2 + 2)
    whole = fusion()
    expected, expected_gradient = step_weighted(whole, x, valid, slice(None))
    out, gradient = step_weighted(ours, x, valid, half)
    torch.testing.assert_close(out, expected[half], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient[half], atol=1e-4, rtol=1e-4)
    for name in STATISTICS:
        torch.testing.assert_close(getattr(ours.norm, name), getattr(whole.norm, name), rtol=1e-5, atol=1e-5)


def step_weighted(model: Fusion, x: Tensor, valid: Tensor, images: slice) -> tuple[Tensor, Tensor]:
    """The result for some images, and the gradient of this process's part of a sum over all images."""
    weight = torch.randn(x.shape[0], x.shape[1], 8, generator=torch.Generator().manual_seed(3))[images]
    part = x[images].clone().requires_grad_()
    out = model(part, valid[images])
    (out * weight * valid[images][..., None]).sum().backward()
    assert part.grad is not None
    return out, part.grad


def test_two_processes_have_the_statistics_of_one() -> None:
    assert WORLD == 2
    together(one_of_two)
