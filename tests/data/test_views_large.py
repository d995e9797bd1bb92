"""Images much larger than the views: decoded smaller, with the same views and the same replacements."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.rng import seeded
from castssl.data.views import TwoViews
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.visualization.photographs import photographs


def _large(folder: Path) -> Images:
    """Four photographs of 768 pixels and more, the third cut off in its middle."""
    for number, (_, image) in enumerate(photographs()):
        path = folder / "train" / "some" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize((image.width * 3, image.height * 3)).save(path, quality=90)
        if number == 2:
            path.write_bytes(path.read_bytes()[:9000])
    images = open_images(f"folder:{folder}")
    assert isinstance(images, Images)
    return images


def test_large_images_are_decoded_smaller(tmp_path: Path) -> None:
    images, views = _large(tmp_path), TwoViews(64, 0.5)
    with seeded(1):
        sample = images.fetch(2, views.plan)
    assert sample.position == 3, "the next one stands in for an unreadable one"
    full = images.fetch(3).image
    assert sample.plan is not None
    assert sample.plan.shrink == 4 == round(full.width / sample.image.width)
    with seeded(2):
        reduced = views.crop(sample.image, sample.plan)
    with seeded(2):
        complete = views.crop(full, sample.plan)
    for one, other in zip(reduced, complete, strict=True):
        assert one.box == pytest.approx(other.box, abs=0.004)
        assert (one.image.float() - other.image.float()).abs().mean() < 4


def test_a_loader_gives_the_same_whatever_its_workers(tmp_path: Path) -> None:
    images, views = _large(tmp_path), TwoViews(48)
    alone, helped = (
        list(load(images, views=views, superpixels=None, batch_size=2, workers=workers, seed=3))
        for workers in (0, 2)
    )
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(a.image, b.image) for a, b in zip(one.views, other.views, strict=True))


@pytest.mark.parametrize(("side", "shrink"), [(100, 1), (159, 1), (160, 2), (511, 2), (512, 4), (4000, 4)])
def test_nothing_that_a_view_shows_is_given_up(side: int, shrink: int) -> None:
    with seeded(0):
        assert {TwoViews(64, 1.0).plan(side, side).shrink for _ in range(20)} == {shrink}
        assert CenterView(64).plan(side, side) == ((), 1)
