"""The two views against the table of BYOL and MoCo v3, counted from outside, and what a wrong table gives."""

from __future__ import annotations

import colorsys
import pickle

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from castssl.data.evaluation_views import CenterView
from castssl.data.rng import seeded
from castssl.data.views import MOCO, ColorAugment, CroppedView, OneView, TwoViews, to_uint8
from castssl.errors import ConfigError
from castssl.visualization.photographs import photographs
from tests.datasets.image_files import make_image

DRAWS = 1200
NEVER = ColorAugment(0, 0, 0, 0, 0)
PHOTOGRAPHS = [image for _, image in photographs()]
PUBLISHED = (
    {"jitter": 0.8, "gray": 0.2, "blur": 1.0, "solarize": 0.0, "flip": 0.5},
    {"jitter": 0.8, "gray": 0.2, "blur": 0.1, "solarize": 0.2, "flip": 0.5},
)


def _drawn(color: ColorAugment, image: Image.Image, size: int, crop_min: float = 1.0) -> NDArray[np.float64]:
    """Many draws of one view: (DRAWS, 3, size, size); a square image is never cropped at crop_min 1."""
    views = TwoViews(size, crop_min, colors=[color])
    with seeded(17):
        return np.stack([views(image)[0].numpy() for _ in range(DRAWS)]).astype(np.float64)


def _photograph(number: int) -> Image.Image:
    return PHOTOGRAPHS[number % len(PHOTOGRAPHS)]


def _plane(values: object) -> Image.Image:
    """Grey values (H, W), or colors (H, W, 3), as an image."""
    array = np.asarray(values, np.uint8)
    return Image.fromarray(array if array.ndim == 3 else array[..., None].repeat(3, 2))


CHECKS = _plane([[[210, 60, 20], [20, 120, 240]] * 2, [[20, 240, 100], [230, 20, 120]] * 2] * 2)


def _agrees(color: ColorAugment, step: str, published: float) -> bool:
    """Whether a step alone changes a colourful image as often as it should, within four deviations."""
    drawn = _drawn(NEVER._replace(**{step: getattr(color, step)}), CHECKS, 4)
    share = (drawn != to_uint8(CHECKS).numpy()).any((1, 2, 3)).mean()
    return bool(abs(share - published) < 4 * (0.25 / DRAWS) ** 0.5)


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("step", ColorAugment._fields)
def test_every_step_is_as_likely_as_published(view: int, step: str) -> None:
    assert TwoViews(8).views == len(MOCO) == 2
    assert _agrees(MOCO[view], step, PUBLISHED[view][step])


@pytest.mark.parametrize(
    ("step", "fault"), [("jitter", 0.7), ("gray", 0.3), ("blur", 0.9), ("solarize", 0.1), ("flip", 0.4)]
)
def test_a_fault_in_the_table_is_noticed(step: str, fault: float) -> None:
    assert not _agrees(MOCO[0]._replace(**{step: fault}), step, PUBLISHED[0][step])


def _uniform(values: NDArray[np.float64], low: float, high: float, slack: float) -> bool:
    wanted = np.linspace(low, high, 21)
    return bool(np.abs(np.quantile(values, np.linspace(0, 1, 21)) - wanted).max() < slack * (high - low))


def test_jitter_is_as_strong_as_published() -> None:
    only = NEVER._replace(jitter=1)
    brightness = _drawn(only, _plane(np.full((4, 4), 128)), 4)[:, 0, 0, 0] / 128
    assert _uniform(brightness, 0.6, 1.4, 0.06)
    assert not _uniform(brightness, 0.5, 1.5, 0.06)

    halves = _drawn(only, _plane([[80] * 2 + [160] * 2] * 4), 4)[:, 0, 0]
    contrast = (halves[:, 3] - halves[:, 0]) / halves.mean(1) * 120 / 80
    assert _uniform(contrast, 0.6, 1.4, 0.06)

    colors = _drawn(only, _plane(np.full((4, 4, 3), (150, 90, 90))), 4)[:, :, 0, 0] / 255
    hue = np.array([(colorsys.rgb_to_hsv(*color)[0] + 0.5) % 1 - 0.5 for color in colors])
    assert _uniform(hue, -0.1, 0.1, 0.09)

    # contrast takes a color away from gray as saturation does
    luma = colors @ (0.299, 0.587, 0.114)
    seen = (colors.max(1) - colors.min(1)) / luma * (0.299 * 150 + 0.701 * 90) / 60
    chance = np.random.default_rng(0)
    strength = chance.uniform(0.6, 1.4, 10**5)
    ends = [0.01, 0.03, 0.97, 0.99]
    expected = [np.quantile(strength * chance.uniform(1 - s, 1 + s, 10**5), ends) for s in (0.2, 0.4)]
    assert np.quantile(seen, ends) == pytest.approx(expected[0], abs=0.07)
    assert np.quantile(seen, ends) != pytest.approx(expected[1], abs=0.07)


def test_blur_is_as_strong_as_published() -> None:
    edge = _plane([[0] * 12 + [255] * 12] * 24)
    radii = np.linspace(0.02, 2.2, 400)
    strengths = [
        np.asarray(edge.filter(ImageFilter.GaussianBlur(float(radius))))[12, 9:12, 0].sum()
        for radius in radii
    ]
    seen = _drawn(NEVER._replace(blur=1), edge, 24)[:, 0, 12, 9:12].sum(1)
    result = np.interp(seen, strengths, radii)
    assert _uniform(result, 0.1, 2.0, 0.06)
    assert not _uniform(result, 0.1, 2.5, 0.06)


def test_blur_can_be_weaker_for_small_views() -> None:
    edge = _plane([[0] * 12 + [255] * 12] * 24)
    with seeded(3):
        color = [NEVER._replace(blur=1)]
        weak, strong = (
            np.stack([TwoViews(24, 1.0, blur=blur, colors=color)(edge)[0] for _ in range(40)])
            for blur in (0.4, 2.0)
        )
    assert weak[:, 0, 12, 9:12].max() < strong[:, 0, 12, 9:12].max()
    with pytest.raises(ConfigError, match="got blur 0"):
        TwoViews(24, blur=0)


def test_solarize_inverts_from_128_on() -> None:
    ramp = np.arange(256).reshape(16, 16)
    seen = _drawn(NEVER._replace(solarize=1), _plane(ramp), 16)[0, 0]
    assert np.array_equal(seen, np.where(ramp >= 128, 255 - ramp, ramp))


def test_crops_are_as_published() -> None:
    """An image whose color is the position tells which box was cut out."""
    y, x = np.mgrid[:256, :256]
    where = _plane(np.stack([x, y, x], -1))
    cuts = _drawn(NEVER, where, 16, 0.08)
    wide = (cuts[:, 0, 8, 14] - cuts[:, 0, 8, 1]) * 16 / 13
    high = (cuts[:, 1, 14, 8] - cuts[:, 1, 1, 8]) * 16 / 13
    area, aspect = wide * high / 256**2, wide / high
    assert np.quantile(area, [0.003, 0.997]) == pytest.approx([0.08, 1.0], abs=0.05)
    assert np.quantile(aspect, [0.01, 0.99]) == pytest.approx([3 / 4, 4 / 3], rel=0.06)


def test_steps_come_in_the_published_order() -> None:
    everything = ColorAugment(0, 1, 1, 1, 0)
    # gray (122) before solarize, which would leave another gray (78)
    assert abs(_drawn(everything, _plane(np.full((4, 4, 3), (200, 100, 30))), 4)[0] - 122).max() <= 1
    # blur before solarize: after it, black meets black
    assert _drawn(everything, _plane([[0] * 8 + [255] * 8] * 16), 16).max() > 80
    # jitter before gray: a turned hue brightens a red more than brightness alone can
    red = _plane(np.full((4, 4, 3), (140, 20, 20)))
    lightness = _drawn(ColorAugment(1, 1, 0, 0, 0), red, 4)[:, 0, 0, 0] / (0.299 * 140 + 0.701 * 20)
    assert lightness.max() > 1.6


@pytest.mark.parametrize("views", [TwoViews(24), OneView(24), CenterView(24)])
@pytest.mark.parametrize("size", [(50, 31), (24, 24), (5, 60)])
def test_views_are_uint8_and_leave_the_image(views: TwoViews, size: tuple[int, int]) -> None:
    image = make_image(1, size)
    before = np.asarray(image).copy()
    made = pickle.loads(pickle.dumps(views))(image)
    assert len(made) == views.views
    assert all(view.shape == (3, 24, 24) and view.dtype == torch.uint8 for view in made)
    assert all(view.is_contiguous() for view in made)
    assert np.array_equal(np.asarray(image), before)


@pytest.mark.parametrize("views", [TwoViews(24), OneView(24), CenterView(24)])
def test_equal_seeds_give_equal_views(views: TwoViews) -> None:
    def drawn(seed: int) -> list[CroppedView]:
        with seeded(seed):
            return views.crop(make_image(1, (60, 40)))

    same = [torch.equal(a.image, b.image) and a[1:] == b[1:] for a, b in zip(drawn(1), drawn(1), strict=True)]
    assert all(same)
    other = [torch.equal(a.image, b.image) for a, b in zip(drawn(1), drawn(2), strict=True)]
    assert all(other) == isinstance(views, CenterView)


def _carried(image: NDArray[np.uint8], view: CroppedView, size: int) -> NDArray[np.uint8]:
    """A map of the image through a view's box and flip, each pixel from where its middle lies."""
    left, top, right, bottom = view.box
    middles = (np.arange(size) + 0.5) / size
    across = left + middles * (right - left)
    if view.flipped:
        across = across[::-1]
    rows = ((top + middles * (bottom - top)) * image.shape[0]).astype(int)
    carried: NDArray[np.uint8] = image[rows[:, None], (across * image.shape[1]).astype(int)]
    return carried


def _off(where: NDArray[np.uint8], view: CroppedView) -> int:
    carried = _carried(where, view, 32).astype(int)
    return int(abs(carried - view.image.permute(1, 2, 0).numpy())[2:-2, 2:-2].max())


@pytest.mark.parametrize("views", [TwoViews(32, colors=[NEVER._replace(flip=0.5)] * 2), CenterView(32)])
def test_places_tell_where_a_view_lies(views: TwoViews) -> None:
    """A smooth map of the whole image, carried through the same box and flip, matches the view."""
    y, x = np.mgrid[:90, :120]
    where = np.stack([x * 2, y * 2, 255 - x - y], -1).astype(np.uint8)
    with seeded(9):
        placed = [view for _ in range(20) for view in views.crop(_plane(where))]
    off = [
        abs(_carried(where, view, 32).astype(int) - view.image.permute(1, 2, 0).numpy()) for view in placed
    ]
    assert max(difference[2:-2, 2:-2].max() for difference in off) <= 4
    if isinstance(views, TwoViews):
        turned = [view._replace(flipped=not view.flipped) for view in placed]
        assert all(
            abs(_carried(where, v, 32).astype(int)[:, 2] - v.image[:, :, 2].T.numpy()).max() > 4
            for v in turned
        )


def test_crops_are_resized_as_pil_does() -> None:
    with seeded(4):
        for number in range(30):
            image = _photograph(number)
            (view,) = TwoViews(64, colors=[NEVER]).crop(image)
            left, top, right, bottom = (
                round(share * side) for share, side in zip(view.box, image.size * 2, strict=True)
            )
            pil = image.crop((left, top, right, bottom)).resize((64, 64), Image.Resampling.BILINEAR)
            assert abs(to_uint8(pil).int() - view.image.int()).max() <= 1


def test_one_view_crops_and_flips_only() -> None:
    image = _plane([[10, 200]] * 2).resize((64, 64), Image.Resampling.NEAREST)
    with seeded(5):
        seen = [tuple(OneView(8, 1.0)(image)[0][0, 4, [0, -1]].tolist()) for _ in range(400)]
    assert set(seen) == {(10, 200), (200, 10)}
    assert abs(seen.count((10, 200)) / 400 - 0.5) < 0.1


def test_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        TwoViews(0)
