"""The small pieces, against direct formulas."""

from __future__ import annotations

import torch

from castssl.pooling.arithmetic import (
    gather,
    highest,
    masked_mean,
    nearest,
    one_hot,
    squared_distances,
    weighted_mean,
)


def test_squared_distances_stay_exact_enough_far_from_the_origin() -> None:
    a, b = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    direct = (a[:, :, None] - b[:, None]).square().sum(-1)
    torch.testing.assert_close(squared_distances(a, b), direct, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(squared_distances(a, b), direct, atol=1e-4, rtol=1e-4)
    assert (squared_distances(a + 1e3, a + 1e3) >= 0).all()


def test_nearest_ignores_absent_centres() -> None:
    x = torch.tensor([[[0.0], [1.0], [5.0]]])
    centers = torch.tensor([[[1.0], [4.0]]])
    assert nearest(x, centers, torch.tensor([[True, True]])).tolist() == [[0, 0, 1]]
    assert nearest(x, centers, torch.tensor([[True, False]])).tolist() == [[0, 0, 0]]


def test_means_over_masks_and_assignments() -> None:
    x = torch.arange(6.0).view(1, 3, 2)
    valid = torch.tensor([[True, True, False]])
    assert masked_mean(x, valid).tolist() == [[[1, 2]]]
    assert masked_mean(x, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[[0, 0]]]
    assign = one_hot(torch.tensor([[1, 1, 0]]), 3, valid)
    assert assign.tolist() == [[[0, 1, 0], [0, 1, 0], [0, 0, 0]]]
    assert weighted_mean(x, assign).tolist() == [[[0, 0], [1, 2], [0, 0]]]
    assert gather(x, torch.tensor([[2, 0]])).tolist() == [[[4, 5], [0, 1]]]


def test_of_equal_scores_the_first_are_the_highest() -> None:
    scores = torch.randint(0, 4, (3, 200)).float()
    for row, found in zip(scores.tolist(), highest(scores, 60).tolist(), strict=True):
        assert found == sorted(range(200), key=lambda column: (-row[column], column))[:60]
