"""MoCo v3: golden values, the update of the momentum copies, refusals."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from castssl.models.create import create
from castssl.objectives.moco import MoCoV3, contrast
from castssl.types import Batch, View

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "operators.safetensors"


def test_one_direction_by_its_golden_value() -> None:
    q = torch.tensor([[1.0, 2, 3], [-1, 0.5, 2]], dtype=torch.float64)
    k = torch.tensor([[0.5, 1, 2.5], [-2, 1, 1]], dtype=torch.float64)
    assert contrast(q, k, 0.2).item() == pytest.approx(0.14382422836459052, abs=1e-14)


def test_the_symmetric_loss_of_a_stored_run() -> None:
    stored = load_file(GOLDEN)
    q1, q2, k1, k2 = (stored[f"moco.{name}"] for name in ("q1", "q2", "k1", "k2"))
    loss = contrast(q1, k2, 0.2) + contrast(q2, k1, 0.2)
    torch.testing.assert_close(loss, stored["moco.loss"], atol=1e-6, rtol=0)


def objective(**options: float) -> MoCoV3:
    torch.manual_seed(0)
    return MoCoV3(create("nano", image_size=32, sizes=(16, 8, 4)), hidden=32, out=16, **options)  # type: ignore[arg-type]


def batch(count: int = 4) -> Batch:
    segments = (torch.arange(32) // 8)[:, None] * 4 + torch.arange(32) // 8
    views = [View(torch.randn(count, 3, 32, 32), segments.int().expand(count, -1, -1)) for _ in range(2)]
    return Batch(views, torch.zeros(count, 0, dtype=torch.long))


def test_the_momentum_copies_begin_equal_and_follows_by_the_coefficient() -> None:
    moco = objective(momentum=0.9)
    pairs = list(zip(moco.encoder.parameters(), moco.momentum_model.encoder.parameters(), strict=True))
    pairs += list(
        zip(moco.model.projector.parameters(), moco.momentum_model.projector.parameters(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in pairs)
    before = [b.clone() for _, b in pairs]
    with torch.no_grad():
        for a, _ in pairs:
            a.add_(1)
    moco.after_step(0.25)
    m = 1 - 0.1 / 2 * (1 + math.cos(math.pi / 4))
    for (a, b), old in zip(pairs, before, strict=True):
        torch.testing.assert_close(b, m * old + (1 - m) * a)


@pytest.mark.parametrize(("rise", "expected"), [(True, [0.99, 0.995, 1.0]), (False, [0.99] * 3)])
def test_the_coefficient_rises_along_a_cosine_or_stays(rise: bool, expected: list[float]) -> None:
    moco = objective(momentum_rise=rise)
    assert [moco.coefficient(p) for p in (0, 0.5, 1)] == pytest.approx(expected)


def test_no_gradient_reaches_the_momentum_copies_and_every_other_parameter_has_one() -> None:
    moco = objective()
    moco(batch()).loss.backward()
    assert all(p.grad is None for p in moco.momentum_model.parameters())
    missing = [n for n, p in moco.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_a_one_color_image_trains() -> None:
    given = batch()
    flat = Batch([View(torch.zeros_like(v.image), v.segments) for v in given.views], given.target)
    loss = objective()(flat).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_equal_keys_everywhere_give_the_logarithm_of_the_batch() -> None:
    same: Tensor = torch.ones(8, 4)
    assert contrast(same, same, 0.5).item() == pytest.approx(math.log(8), abs=1e-6)


def test_wrong_batches_are_refused() -> None:
    given = batch()
    with pytest.raises(ValueError, match="2 views of each image, got 1"):
        objective()(given._replace(views=given.views[:1]))
    raw = [View((v.image * 0).byte(), v.segments) for v in given.views]
    with pytest.raises(ValueError, match=r"got torch\.uint8"):
        objective()(given._replace(views=raw))


@pytest.mark.parametrize("options", [{"momentum": 1.5}, {"temperature": 0.0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        objective(**options)
