"""Attention on the pixels of classes against a second implementation, pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from castssl.metrics.attention_mass import attention_mass


def naive(weights: Tensor, labels: Tensor, classes: Tensor, count: int) -> list[float]:
    """Of one distribution in one image: a heat map, whose values are added up by class."""
    places, kind = labels.flatten().tolist(), classes.flatten().tolist()
    heat = [float(weights[token]) / places.count(token) if token >= 0 else 0.0 for token in places]
    on = [sum(h for h, k in zip(heat, kind, strict=True) if k == c) for c in range(count)]
    return [value / sum(heat) if sum(heat) else 0.0 for value in on]


def sample(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three images of 7 x 5 pixels, four distributions over 6 tokens, 3 classes."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.rand(3, 4, 6, generator=draw) ** 3
    labels = torch.randint(-1, 5, (3, 7, 5), generator=draw)  # No pixel has the last token.
    return weights / weights.sum(2, keepdim=True), labels, torch.randint(-1, 3, (3, 7, 5), generator=draw)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_sum_of_the_heat_map_on_each_class(seed: int) -> None:
    weights, labels, classes = sample(seed)
    found = attention_mass(weights, labels.int(), classes.to(torch.int16), 3)
    assert found.dtype == torch.float32
    for image in range(3):
        for label in range(4):
            expected = naive(weights[image, label], labels[image], classes[image], 3)
            assert found[image, label].tolist() == pytest.approx(expected, abs=1e-6)


def test_attention_by_area_has_the_share_of_the_area() -> None:
    _, labels, classes = sample(0)
    labels = labels.clamp(min=0)
    area = torch.stack([(labels == token).sum((1, 2)) for token in range(6)], 1)[:, None] / 35
    share = torch.stack([(classes == kind).sum((1, 2)) for kind in range(3)], 1) / 35
    assert torch.allclose(attention_mass(area, labels, classes, 3)[:, 0], share)


def test_attention_on_one_token_is_the_token_s_own_share_and_none_is_zero() -> None:
    labels, classes = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[-1, 0, 1, 1]]])
    weights = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.5, 0.5]]])
    expected = torch.tensor([[[0.5, 0], [0, 1], [0, 0], [0, 1]]])
    assert torch.equal(attention_mass(weights, labels, classes, 2), expected)


def test_wrong_shapes_and_numbers_are_refused() -> None:
    weights, labels, classes = sample(0)
    with pytest.raises(ValueError, match="two maps"):
        attention_mass(weights, labels, classes[:, :-1], 3)
    with pytest.raises(ValueError, match="labels below 4"):
        attention_mass(weights[..., :4], labels, classes, 3)
    with pytest.raises(ValueError, match="classes below 2"):
        attention_mass(weights, labels, classes, 2)
