"""Our views have the distribution of the plain pipeline's: torchvision, lightly and PIL on the full image.

Statistics of many views of photographs, compared by Kolmogorov and Smirnov's test at the 0.1 % level each;
seeded faults show that the comparison sees what it should.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from lightly.transforms.gaussian_blur import GaussianBlur
from lightly.transforms.solarize import RandomSolarization
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import transforms as T

from castssl.data import photometric
from castssl.data import views as views_module
from castssl.data.rng import seeded
from castssl.data.views import MOCO, ColorAugment, TwoViews, to_uint8
from castssl.datasets.decode import header, read
from castssl.visualization.photographs import photographs

SIZE = 48
DRAWS = 300
PHOTOGRAPHS = [image for _, image in photographs()]
LIMIT = 1.95 * (2 / DRAWS) ** 0.5  # of the distance of two samples, at the 0.1 % level
BANDS = ((0, 0.1), (0.1, 0.25), (0.25, 1))
Draw = Callable[[int, int], Tensor]


def _plain(view: ColorAugment) -> T.Compose:
    return T.Compose(
        [
            T.RandomResizedCrop(SIZE, scale=(0.08, 1.0)),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=view.jitter),
            T.RandomGrayscale(view.gray),
            GaussianBlur(prob=view.blur, sigmas=(0.1, 2.0)),
            RandomSolarization(prob=view.solarize, threshold=128),
            T.RandomHorizontalFlip(view.flip),
        ]
    )


PLAIN = [_plain(view) for view in MOCO]
CROP = T.RandomResizedCrop(SIZE, scale=(0.08, 1.0))


def _reference(number: int, view: int) -> Tensor:
    return to_uint8(PLAIN[view](PHOTOGRAPHS[number % 4]))


def _ours(number: int, view: int) -> Tensor:
    return TwoViews(SIZE, colors=[MOCO[view]])(PHOTOGRAPHS[number % 4])[0]


@cache
def _encoded(number: int) -> bytes:
    stream = io.BytesIO()
    PHOTOGRAPHS[number].save(stream, "jpeg", quality=95)
    return stream.getvalue()


def _as_loaded(number: int, view: int) -> Tensor:
    """Decoded at reduced size where the crop allows it."""
    views = TwoViews(SIZE, colors=[MOCO[view]])
    opened = header(io.BytesIO(_encoded(number % 4)))
    plan = views.plan(*opened.size)
    image = read(opened, (opened.width // plan.shrink, opened.height // plan.shrink)).image
    return views.crop(image, plan)[0].image


def _statistics(view: Tensor) -> NDArray[np.float64]:
    """Means and deviations of channels, colourfulness, energy of gradients, slopes of the spectrum: logs."""
    colors = view.numpy().astype(np.float64)
    gray = colors.mean(0)
    gradients = [np.square(np.diff(gray, axis=axis)).mean() for axis in (0, 1)]
    power = np.abs(np.fft.fft2(gray - gray.mean())) ** 2
    radius = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE))
    low, middle, high = (power[(a < radius) & (radius <= b)].sum() for a, b in BANDS)
    saturation = (colors.max(0) - colors.min(0)).mean()
    sizes = np.array([*colors.mean((1, 2)), *colors.std((1, 2)), saturation, *gradients])
    return np.array([*np.log(sizes + 1), np.log((low + 1) / (middle + 1)), np.log((middle + 1) / (high + 1))])


def _table(draw: Draw, seed: int) -> NDArray[np.float64]:
    """(draws, 2 * statistics) of two views."""
    rows = []
    for number in range(DRAWS):
        row = []
        for view in range(2):
            with seeded(seed, number, view):
                row.append(_statistics(draw(number, view)))
        rows.append(np.concatenate(row))
    return np.array(rows)


@cache
def _crops(seed: int) -> NDArray[np.float64]:
    return _table(lambda number, view: to_uint8(CROP(PHOTOGRAPHS[number % 4])), seed)


def _changes(draw: Draw, seed: int) -> NDArray[np.float64]:
    """What each view's statistics are beyond those of the crop that the same draws give.

    Else the differences between crops would hide those between colors.
    """
    return _table(draw, seed) - _crops(seed)


@pytest.fixture(scope="module")
def reference() -> NDArray[np.float64]:
    return _changes(_reference, 1)


def _farthest(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The largest distance of two empirical distribution functions, over all statistics of both views."""
    distances = []
    for a, b in zip(one.T, other.T, strict=True):
        at = np.concatenate([a, b])
        below = [np.searchsorted(np.sort(values), at, "right") / DRAWS for values in (a, b)]
        distances.append(np.abs(below[0] - below[1]).max())
    return float(max(distances))


def test_views_change_images_as_the_plain_pipeline_does(reference: NDArray[np.float64]) -> None:
    assert _farthest(_changes(_ours, 2), reference) < LIMIT


def test_so_do_views_of_images_that_were_decoded_smaller() -> None:
    assert _farthest(_table(_as_loaded, 2), _table(_reference, 1)) < LIMIT
    with seeded(2):
        assert 20 < sum(TwoViews(SIZE).plan(384, 256).shrink > 1 for _ in range(DRAWS)) < DRAWS


@pytest.mark.parametrize(("spare", "low", "high"), [(1.25, 0.94, 1.0), (1.0, 1.12, 2.0)])
def test_gradients_of_images_that_were_decoded_smaller(spare: float, low: float, high: float) -> None:
    """Why some more pixels than the view's must be left."""
    side = round(2 * SIZE * spare)
    ratios = []
    for number in range(4):
        small, full = (header(io.BytesIO(_encoded(number))) for _ in range(2))
        small = read(small, (small.width // 2, small.height // 2)).image
        views = [
            image.crop((0, 0, box, box)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            for image, box in ((small, side // 2), (read(full).image, side))
        ]
        energy = [np.exp(_statistics(to_uint8(view))[7:9]).sum() for view in views]
        ratios.append(energy[0] / energy[1])
    assert low < np.mean(ratios) < high


def _aliased(crop: Tensor, size: tuple[int, int], **_: object) -> Tensor:
    return interpolate(crop.float(), size, mode="bilinear", antialias=False).byte()


def _untouched(pixels: NDArray[np.uint8], *_: object) -> NDArray[np.uint8]:
    return pixels


FAULTS: dict[str, tuple[object, str, object]] = {
    "no antialiasing": (views_module, "interpolate", _aliased),
    "no blur": (photometric, "gaussian_blur", _untouched),
    "no jitter": (photometric, "_JITTER", _untouched),
    "weak jitter": (photometric, "_JITTER", photometric.Jitter(0.2, 0.2, 0.1, 0.05)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_noticed(
    fault: str, reference: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    assert _farthest(_changes(_ours, 2), reference) > LIMIT
