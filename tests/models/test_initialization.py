"""Weights of narrow encoders begin longer; those of the published widths as before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from castssl.models import initialization
from castssl.models.create import create
from castssl.models.initialization import linear, std
from castssl.models.presets import PRESETS


@pytest.mark.parametrize("width", sorted({preset.dim for preset in PRESETS.values()}))
def test_rows_are_as_long_as_in_a_width_of_384(width: int) -> None:
    assert std(width) == (0.02 if width >= 384 else pytest.approx(0.02 * (384 / width) ** 0.5))


def drawn(name: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    encoder = create(name, depths=(1, 1, 1, 1, 0), image_size=64, positions="learned", pooling="random")
    return encoder.state_dict()


@pytest.mark.parametrize("name", ["cast_small", "cast_base"])
def test_published_widths_draw_the_bits_of_a_fixed_deviation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = drawn(name)
    monkeypatch.setattr(initialization, "std", lambda width: 0.02)
    fixed = drawn(name)
    assert all(torch.equal(value, fixed[key]) for key, value in state.items())


def test_all_that_nano_draws_by_the_rule_has_the_deviation_of_its_width() -> None:
    torch.manual_seed(0)
    encoder = create("nano", positions="learned")
    weights = [m.weight for m in encoder.get_submodule("stages").modules() if isinstance(m, nn.Linear)]
    table, token = encoder.get_parameter("positions"), encoder.get_parameter("cls_token")
    assert len(weights) == 12
    for weight in (*weights, table):
        assert float(weight.detach().std()) == pytest.approx(0.02 * 6**0.5, rel=0.05)
    assert float(token.detach().std()) == pytest.approx(0.02 * 6**0.5, rel=0.4)


def test_moco_draws_by_xaviers_rule_at_any_width() -> None:
    torch.manual_seed(0)
    mlp = create("nano").get_submodule("stages.0.blocks.0.mlp.fc1")
    assert isinstance(mlp, nn.Linear)
    assert float(mlp.weight.detach().std()) == pytest.approx((2 / (64 + 256)) ** 0.5, rel=0.05)


def test_a_classifier_of_a_part_of_the_features_is_drawn_for_the_encoders_width() -> None:
    whole, part = (float(linear(64, 999, width=width).weight.detach().std()) for width in (None, 384))
    assert whole == pytest.approx(0.02 * 6**0.5, rel=0.05)
    assert part == pytest.approx(0.02, rel=0.05)
