"""The contract checks, without exceptions, for the defaults and others; and sizes that break libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from castssl.contracts import Superpixels
from castssl.errors import ConfigError
from castssl.testing import Check, Subject, parametrize, samples, superpixels
from castssl_slic.device import DeviceSlic
from castssl_slic.fast import FastSlic
from castssl_slic.published import SkimageSlic

OTHERS = (
    "slic:count=30,compactness=40,iterations=2,smallest=0",
    "skimage-slic:count=30,rescale=false",
    "device-slic:count=30,compactness=5,iterations=2,smallest=0.5,sweeps=1",
)
TINY = ((1, 1), (1, 7), (9, 1), (2, 2), (3, 50))


@parametrize(superpixels.checks, ["slic", "skimage-slic", "device-slic", *OTHERS])
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)


@pytest.mark.parametrize("factory", [FastSlic, SkimageSlic, DeviceSlic])
@pytest.mark.parametrize("size", TINY)
def test_images_of_fewer_pixels_than_superpixels(
    factory: type[FastSlic | SkimageSlic | DeviceSlic], size: tuple[int, int]
) -> None:
    backend: Superpixels = factory()
    for images in (samples.pixels(2, *size), torch.full((2, 3, *size), 7, dtype=torch.uint8)):
        labels = backend(images)
        assert labels.shape == (2, *size)
        assert labels.min() >= 0
        assert labels.max() < backend.capacity(*size) <= size[0] * size[1]


@pytest.mark.parametrize("factory", [FastSlic, SkimageSlic, DeviceSlic])
def test_options_out_of_range_are_refused_with_what_was_given(
    factory: type[FastSlic | SkimageSlic | DeviceSlic],
) -> None:
    with pytest.raises(ConfigError, match="count=0"):
        factory(0)
    with pytest.raises(ConfigError, match=r"compactness=-1\.0"):
        factory(compactness=-1.0)


@pytest.mark.parametrize("backend", [FastSlic(9, smallest=0), SkimageSlic(9, rescale=False), DeviceSlic(9)])
def test_its_text_builds_it_again(backend: FastSlic | SkimageSlic | DeviceSlic) -> None:
    again = eval(repr(backend))
    assert repr(again) == repr(backend)
    assert vars(again) == vars(backend)


@pytest.mark.parametrize("factory", [FastSlic, SkimageSlic, DeviceSlic])
def test_segments_follow_colors(factory: type[FastSlic | SkimageSlic | DeviceSlic]) -> None:
    images = torch.zeros(1, 3, 48, 48, dtype=torch.uint8)
    images[:, 0, 7:41, 11:30] = 255
    labels = factory(16)(images)[0]
    inside = set(np.unique(labels[7:41, 11:30]).tolist())
    outside = labels.clone()
    outside[7:41, 11:30] = -1
    assert not inside & set(np.unique(outside).tolist()), "a segment crosses an edge of full contrast"
