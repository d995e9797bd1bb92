from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.data.rng import seeded
from castssl.data.taxon_views import TaxonViews
from castssl.errors import ConfigError


def ramp(width: int = 96, height: int = 64) -> Image.Image:
    """Red grows to the right and green downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def test_three_views_of_one_size_which_a_seed_decides() -> None:
    views = TaxonViews(64)
    assert views.views == 3
    drawn = []
    for seed in (0, 0, 1):
        with seeded(seed):
            drawn.append(views(ramp()))
    assert all(view.shape == (3, 64, 64) and view.dtype == torch.uint8 for view in drawn[0])
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_boxes_and_flips_place_the_first_two_views() -> None:
    """Red and green of the standard view are those of its box; a flip turns red around."""
    views, flips = TaxonViews(64), set()
    for seed in range(12):
        with seeded(seed):
            standard, simclr, _ = views.crop(ramp())
        left, top, right, bottom = standard.box
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        red = standard.image[0].float().mean(0)
        ends = (red[-3], red[2]) if standard.flipped else (red[2], red[-3])
        # The margin of one pixel is reflected, and a box leaves it out.
        for end, place in zip(ends, (left, right), strict=True):
            assert float(end) == pytest.approx(255 * place, abs=16)
        assert 0.05 < (simclr.box[2] - simclr.box[0]) * (simclr.box[3] - simclr.box[1]) * 1.0 <= 1
        flips.add(standard.flipped)
    assert flips == {False, True}


def test_a_slim_image_stays_small() -> None:
    for width, height in ((4000, 1), (1, 4000)):
        with seeded(0):
            views = TaxonViews(16).crop(ramp(width, height))
        assert all(view.image.shape == (3, 16, 16) for view in views)
        # Side 16 is an eighth of the longer side, which is 128 pixels and not 64,000.
        left, top, right, bottom = views[0].box
        assert 0.1 < (right - left if width > height else bottom - top) <= 0.125


def test_the_second_view_may_be_gray() -> None:
    gray = 0
    for seed in range(100):
        with seeded(seed):
            view = TaxonViews(16)(ramp(24, 16))[1]
        gray += torch.equal(view[0], view[1]) and torch.equal(view[1], view[2])
    assert 8 <= gray <= 34  # Expected 20, standard deviation 4.


@pytest.mark.parametrize(("size", "crop_min"), [(4, 0.1), (64, 0.0), (64, 1.5)])
def test_numbers_out_of_range_are_refused(size: int, crop_min: float) -> None:
    with pytest.raises(ConfigError, match="sides of 8 pixels or more"):
        TaxonViews(size, crop_min=crop_min)
