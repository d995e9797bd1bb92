"""The mean and standard deviation of weights of other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from castssl.data.normalize import normalize
from castssl.encoder_config import MEAN, STD
from castssl.models.constants import conversion, pretrained_constants


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], {}),
        ([0.5] * 3, [0.229, 0.224, 0.225], {"mean": (0.5,) * 3, "std": STD}),
        (MEAN, (0.5,) * 3, {"mean": MEAN, "std": (0.5,) * 3}),
    ],
)
def test_constants_other_than_those_of_views_are_in_the_config(
    mean: Sequence[float], std: Sequence[float], expected: dict[str, tuple[float, ...]]
) -> None:
    network: Any = nn.Identity()
    network.pretrained_cfg = {"mean": mean, "std": std}
    assert pretrained_constants(network) == expected


def test_views_become_images_of_other_constants() -> None:
    pixels = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.3, 0.2, 0.1)
    factor, shift = conversion(mean, std)
    own_mean, own_std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    torch.testing.assert_close(normalize(pixels) * factor + shift, (pixels / 255 - own_mean) / own_std)
