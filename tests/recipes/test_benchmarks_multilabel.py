"""The benchmark of label attention prints its table for a tiny trunk; its milliseconds mean nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from castssl_multilabel.interaction import LabelsToTokens
from castssl_multilabel.model import HSVLT
from recipes.benchmarks import multilabel
from recipes.benchmarks.multilabel import Config
from tests.recipes.test_benchmarks_stages import rows

TINY = Config(trunk="timm-features:test_convnext", image_size=64, labels=5, channels=8, rounds=0)


@pytest.fixture(autouse=True)
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of HSVLT, for time."""
    few = ("HSVLT", "HSVLT, Hamburger")
    monkeypatch.setattr(multilabel, "HSVLTS", {name: multilabel.HSVLTS[name] for name in few})


@pytest.mark.recipe
def test_models_are_counted_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    multilabel.main(replace(TINY, rounds=1))
    found = {name: cells for name, *cells in rows(capsys.readouterr().out)}
    assert list(found) == ["trunk alone", "plain head", "HSVLT", "HSVLT, as released", "HSVLT, Hamburger"]
    assert found["HSVLT, as released"][:2] == found["HSVLT"][:2]
    assert found["trunk alone"][3] == "1.00"
    assert [name for name, cells in found.items() if not cells[4]] == ["HSVLT, as released"]


def projected(self: LabelsToTokens, labels: Tensor, x: Tensor, mass: Tensor) -> Tensor:
    """The released order of products, for one head and no padding."""
    key, value = self.key(x), self.value(x)
    weights = (self.query(labels) @ key.mT * labels.shape[-1] ** -0.5).softmax(-1)
    found: Tensor = self.out(weights @ value)
    return found


def test_the_released_order_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its multiply-adds are those that a model with this order has, and its scores are the same."""
    counts = multilabel.count(TINY)
    torch.manual_seed(0)
    model, view = multilabel.models(TINY)["HSVLT"].eval(), multilabel.view(TINY, "cpu", 1)
    assert isinstance(model, HSVLT)
    with torch.no_grad():
        expected = model.logits(view)
        monkeypatch.setattr(LabelsToTokens, "forward", projected)
        with FlopCounterMode(display=False) as counter:
            torch.testing.assert_close(model.logits(view), expected)
    assert counter.get_total_flops() // 2 == counts["HSVLT, as released"][2]
    assert counts["HSVLT, as released"][2] > counts["HSVLT"][2] > counts["trunk alone"][2]
