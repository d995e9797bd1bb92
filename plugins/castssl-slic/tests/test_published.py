from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from skimage.segmentation import slic
from torch import Tensor

from castssl.testing import samples
from castssl_slic.published import SkimageSlic


def as_floats(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(image.permute(1, 2, 0).numpy().astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("count", [20, 64])
def test_labels_are_those_of_a_direct_call(count: int) -> None:
    images = samples.pixels(2, 96, 80)
    for image, labels in zip(images, SkimageSlic(count)(images), strict=True):
        expected = slic(as_floats(image), n_segments=count, compactness=10.0, convert2lab=True, start_label=0)
        assert len(np.unique(expected)) >= count // 2
        if len(np.unique(expected)) <= count:
            assert np.array_equal(labels.numpy(), expected)
        else:
            assert len(labels.unique()) == count


def test_compactness_grows_threefold_until_half_of_the_segments_are_there() -> None:
    """Noise at a compactness of nearly nothing falls apart, and its parts are merged into few."""
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 3, 64, 64), generator=draw, dtype=torch.uint8)
    compactness, tried = 0.1, 0
    while True:
        expected = slic(as_floats(image[0]), n_segments=50, compactness=compactness, start_label=0)
        if len(np.unique(expected)) >= 25:
            break
        compactness, tried = compactness * 3, tried + 1
    assert tried > 0, "this image does not try the loop"
    assert np.array_equal(SkimageSlic(50, compactness=0.1)(image)[0].numpy(), expected)


def test_without_rescaling_a_faint_image_is_not_stretched() -> None:
    faint = samples.pixels(1, 64, 64) // 8 + 60
    stretched, plain = SkimageSlic(40)(faint), SkimageSlic(40, rescale=False)(faint)
    assert not torch.equal(stretched, plain)
    # Less contrast is the same thing as more compactness.
    lab = rgb2lab(as_floats(faint[0]))
    unit = float(np.ptp(lab))
    expected = slic(lab, n_segments=40, compactness=10 / unit, convert2lab=False, start_label=0)
    assert np.array_equal(plain[0].numpy(), expected)
    full = samples.pixels(1, 64, 64)
    full[0, :, 0, 0], full[0, :, 0, 1] = 0, 255
    same = SkimageSlic(40)(full) == SkimageSlic(40, rescale=False)(full)
    assert same.float().mean() > 0.99, "an image of full range is not changed by stretching"
