"""The benchmark of label attention prints its table for a tiny trunk; its milliseconds mean nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from castssl_multilabel.model import HSVLT
from recipes.benchmarks import multilabel
from recipes.benchmarks.multilabel import Config, Projected
from tests.recipes.test_benchmarks_stages import rows

TINY = Config(trunk="timm-features:test_convnext", image_size=64, labels=5, channels=8, rounds=0)


@pytest.fixture(autouse=True)
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of HSVLT, for time."""
    few = ("HSVLT", multilabel.RELEASED, "HSVLT, Hamburger")
    monkeypatch.setattr(multilabel, "HSVLTS", {name: multilabel.HSVLTS[name] for name in few})


@pytest.mark.recipe
def test_models_are_counted_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    multilabel.main(replace(TINY, rounds=1))
    found = {name: cells for name, *cells in rows(capsys.readouterr().out)}
    assert list(found) == ["trunk alone", "plain head", "HSVLT", "HSVLT, as released", "HSVLT, Hamburger"]
    assert found["trunk alone"][3] == "1.00"
    assert all(float(cells[4]) >= 0 for cells in found.values())


def test_the_released_order_of_products() -> None:
    """It gives the same scores, and takes as much more as the projection of every token does."""
    counts = multilabel.count(TINY)
    models, view = multilabel.models(TINY), multilabel.view(TINY, "cpu", 2)
    ours, released = models["HSVLT"].eval(), models[multilabel.RELEASED].eval()
    assert isinstance(ours, HSVLT)
    assert isinstance(released, HSVLT)
    released.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(view), released.logits(view))
    assert sum(isinstance(module, Projected) for module in released.modules()) == sum(ours.encoder.visits)
    sides = zip(ours.encoder.visits, ours.encoder.sizes, ours.encoder.stage_dims, strict=True)
    more = sum(count * 2 * (size - TINY.labels) * dim**2 for count, size, dim in sides)
    assert counts[multilabel.RELEASED] == (*counts["HSVLT"][:2], counts["HSVLT"][2] + more)
    assert counts["HSVLT"][2] > counts["trunk alone"][2]
