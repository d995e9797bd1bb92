from __future__ import annotations

import pytest
import torch

from castssl import create
from castssl.errors import ConfigError
from castssl.models.sizes import sizes_for
from castssl.types import View


def view(side: int = 16, count: int = 6) -> View:
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, side, side, generator=draw)
    segments = torch.randint(0, count, (2, side, side), generator=draw, dtype=torch.int32)
    segments[0, 0, :4] = -1
    return View(image, segments)


def test_a_token_is_the_mean_color_of_its_superpixel() -> None:
    encoder, (image, segments) = create("colors:8"), view()
    dense = encoder.dense(View(image, segments))
    assert dense.x.shape == (2, 8, 3)
    assert encoder.dense_dim == encoder.dim == 3
    assert not list(encoder.parameters())
    for number in range(2):
        for label in range(6):
            inside = segments[number] == label
            torch.testing.assert_close(dense.x[number, label], image[number, :, inside].mean(1))
            assert dense.mass[number, label] == inside.sum()
    assert not dense.mass[:, 6:].any()
    assert torch.equal(dense.labels, segments)
    torch.testing.assert_close(encoder(View(image, segments)).stages[-1].cls[:, 0], image.mean((2, 3)))


def test_other_numbers_of_superpixels() -> None:
    encoder, shown = create("colors:4"), view()
    assert encoder.dense(shown).labels.max() == 3
    assert encoder.dense(shown, sizes_for(encoder, 6)).x.shape == (2, 6, 3)


@pytest.mark.parametrize("name", ["colors:", "colors:0", "colors:many"])
def test_the_name_is_a_number(name: str) -> None:
    with pytest.raises(ConfigError, match="expected a number of superpixels, such as colors:64"):
        create(name)
