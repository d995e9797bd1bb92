from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from castssl.data.rng import seeded
from castssl.data.supervised_views import Policy, SupervisedView
from castssl.datasets.images import Plan
from castssl.errors import ConfigError
from tests.datasets.image_files import make_image

POLICIES: tuple[Policy, ...] = ("randaugment", "three", "none")
PHOTO = make_image(3, (90, 70))


def drawn(view: SupervisedView, key: int) -> Tensor:
    with seeded(key):
        (image,) = view(PHOTO)
    return image


@pytest.mark.parametrize("policy", POLICIES)
def test_views_are_plain_colors_and_repeat_with_their_key(policy: Policy) -> None:
    view = SupervisedView(32, policy=policy)
    images = [drawn(view, key) for key in range(8)]
    assert all(image.dtype == torch.uint8 and image.shape == (3, 32, 32) for image in images)
    assert torch.equal(drawn(view, 5), images[5])
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_the_crop_is_resized_bicubically_and_flipped_half_of_the_time() -> None:
    view, flips = SupervisedView(24, policy="none", erase=0), 0
    box = (1 / 9, 0.0, 7 / 9, 1.0)
    expected = np.asarray(PHOTO.crop((10, 0, 70, 70)).resize((24, 24), Image.Resampling.BICUBIC))
    for key in range(60):
        with seeded(key):
            (placed,) = view.crop(PHOTO, Plan((box,), 1))
        assert placed.box == box
        seen = placed.image.flip(2) if placed.flipped else placed.image
        assert np.array_equal(seen.permute(1, 2, 0).numpy(), expected)
        flips += placed.flipped
    assert 15 <= flips <= 45


@pytest.mark.parametrize("policy", ["randaugment", "none"])
def test_what_is_erased_is_one_rectangle_of_noise(policy: Policy) -> None:
    full, erased = (SupervisedView(48, policy=policy, erase=p) for p in (0.0, 1.0))
    for key in range(12):
        changed = (drawn(full, key) != drawn(erased, key)).any(0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        area = int(rows.max() - rows.min() + 1) * int(columns.max() - columns.min() + 1)
        # Noise equals what was there in hardly any pixel.
        assert changed.sum() > 0.95 * area
        assert 0.015 < area / 48**2 < 0.36


def test_noise_is_normal_in_normalized_colors() -> None:
    view, values = SupervisedView(64, policy="none", erase=1.0), []
    gray = Image.new("RGB", (64, 64), (1, 2, 3))
    for key in range(20):
        with seeded(key):
            (image,) = view(gray)
        values.append(image[0][(image != torch.tensor([1, 2, 3])[:, None, None]).any(0)])
    red = torch.cat(values).float() / 255
    # 0.485 and 0.229 are ImageNet's; the tails beyond 0 and 1 are cut off.
    assert float(red.mean()) == pytest.approx(0.487, abs=0.01)
    assert float(red.std()) == pytest.approx(0.223, abs=0.01)
    assert float((red == 0).float().mean()) == pytest.approx(0.017, abs=0.01)


def test_a_quarter_is_erased_by_default() -> None:
    plain, view = SupervisedView(16, policy="none", erase=0), SupervisedView(16, policy="none")
    erased = sum(not torch.equal(drawn(plain, key), drawn(view, key)) for key in range(200))
    assert 30 <= erased <= 70


def test_three_augment_grays_solarizes_or_blurs_and_erases_nothing() -> None:
    view = SupervisedView(32, policy="three", erase=1.0)
    again = SupervisedView(32, policy="three", erase=0.0)
    images = [drawn(view, key) for key in range(90)]
    assert all(torch.equal(drawn(again, key), images[key]) for key in range(10))
    gray = sum(bool((image[0] == image[1]).all() and (image[1] == image[2]).all()) for image in images)
    assert 15 <= gray <= 45


def test_only_randaugment_bends() -> None:
    assert [SupervisedView(8, policy=policy).bends for policy in POLICIES] == [True, False, False]


def test_images_of_any_shape_serve() -> None:
    view = SupervisedView(16)
    for shape in ((1, 1), (3, 200), (200, 2)):
        (image,) = view(make_image(0, shape))
        assert image.shape == (3, 16, 16)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of randaugment, three, none"):
        SupervisedView(16, policy="augmix")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"1\.5"):
        SupervisedView(16, erase=1.5)
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        SupervisedView(0)
