"""Figure and ground against a second implementation, pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from castssl.metrics.figure_ground import figure, figure_ground_iou


def naive_figure(attention: list[float], mass: float) -> list[bool]:
    chosen: set[int] = set()
    while sum(attention[i] for i in chosen) < mass * sum(attention):
        chosen.add(max((i for i in range(len(attention)) if i not in chosen), key=lambda i: attention[i]))
    return [i in chosen for i in range(len(attention))]


def naive_iou(tokens: Tensor, labels: Tensor, truth: Tensor) -> tuple[float, float]:
    counts = {(claim, real): 0 for claim in (True, False) for real in (True, False)}
    for label, real in zip(labels.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if real >= 0:
            counts[label >= 0 and bool(tokens[label]), real == 1] += 1
    scores = []
    for side in (True, False):
        union = counts[side, side] + counts[side, not side] + counts[not side, side]
        present = counts[side, side] + counts[not side, side]
        scores.append(counts[side, side] / union if present else math.nan)
    return scores[0], scores[1]


@pytest.mark.parametrize("mass", [0.01, 0.4, 0.6, 1.0])
def test_the_figure_is_the_smallest_set_of_tokens_with_the_mass(mass: float) -> None:
    attention = torch.rand(3, 5, 17, generator=torch.Generator().manual_seed(0)) ** 4
    found = figure(attention, mass)
    for image in range(3):
        for head in range(5):
            expected = naive_figure(attention[image, head].double().tolist(), mass)
            assert found[image, head].tolist() == expected


def test_of_equal_tokens_the_first_are_kept_and_empty_ones_never() -> None:
    assert figure(torch.tensor([0.25, 0.25, 0.25, 0.25])).tolist() == [True, True, True, False]
    assert figure(torch.tensor([0.0, 0.5, 0.5, 0.0]), 1.0).tolist() == [False, True, True, False]
    assert not figure(torch.zeros(4)).any()


@pytest.mark.parametrize("mass", [0.0, 1.1])
def test_a_share_out_of_range_is_refused(mass: float) -> None:
    with pytest.raises(ValueError, match="expected above 0 and up to 1"):
        figure(torch.ones(3), mass)


def test_iou_equals_counting_pixel_by_pixel() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 6, (4, 9, 7), generator=draw)
    truth = torch.randint(-1, 2, (4, 9, 7), generator=draw)
    truth[2] = truth[2].clamp(max=0)  # no figure
    truth[3] = truth[3].abs() * 2 - 1  # no ground: 1 or unknown
    tokens = torch.rand(4, 3, 6, generator=draw) < 0.5
    found = figure_ground_iou(tokens, labels, truth)
    assert found.shape == (4, 3, 2)
    for image in range(4):
        for head in range(3):
            expected = naive_iou(tokens[image, head], labels[image], truth[image])
            assert found[image, head].tolist() == pytest.approx(expected, nan_ok=True)


def test_a_perfect_figure_scores_one_and_its_complement_zero() -> None:
    labels = torch.arange(4).repeat_interleave(2)[None, None].expand(1, 3, -1)
    tokens = torch.tensor([[[True, True, False, False], [False, False, True, True]]])
    truth = (labels < 2).long()
    assert figure_ground_iou(tokens, labels, truth).tolist() == [[[1, 1], [0, 0]]]


def test_labels_without_a_token_are_refused() -> None:
    with pytest.raises(ValueError, match="expected labels below 2"):
        figure_ground_iou(torch.ones(1, 1, 2).bool(), torch.full((1, 2, 2), 2), torch.zeros(1, 2, 2))
