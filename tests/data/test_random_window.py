"""Windows of random crops against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from castssl.data.random_window import random_window
from castssl.data.rng import seeded


@pytest.mark.parametrize("least", [0.08, 0.9, 1.0])
@pytest.mark.parametrize(
    ("width", "height"), [(512, 512), (451, 300), (7, 5), (1, 1), (400, 100), (3000, 10), (10, 3000)]
)
def test_windows_and_draws_are_torchvision_s(width: int, height: int, least: float) -> None:
    image = torch.empty((1, height, width), device="meta")
    for seed in range(20):
        with seeded(seed):
            top, left, high, wide = RandomResizedCrop.get_params(image, [least, 1.0], [3 / 4, 4 / 3])
            following = torch.rand(1)
        with seeded(seed):
            assert random_window(width, height, least) == (left, top, left + wide, top + high)
            assert torch.rand(1) == following
