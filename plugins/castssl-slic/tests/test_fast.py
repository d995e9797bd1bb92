from __future__ import annotations

import sys
from importlib import import_module

import numpy as np
import pytest

from castssl.errors import ConfigError, PluginError
from castssl.testing import samples
from castssl_slic.fast import MOST, FastSlic


@pytest.mark.parametrize("size", [(64, 64), (65, 81), (127, 93)])
def test_labels_are_those_of_a_new_object_of_the_plain_code(size: tuple[int, int]) -> None:
    images = samples.pixels(2, *size)
    got = FastSlic(50, compactness=15, iterations=6)(images).numpy()
    for image, labels in zip(images, got, strict=True):
        engine = import_module("fast_slic").Slic(num_components=50, compactness=15, num_threads=1)
        expected = engine.iterate(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), 6)
        assert np.array_equal(labels, expected)


def test_more_labels_than_int16_holds_are_refused() -> None:
    assert FastSlic(MOST).capacity(400, 400) == MOST
    with pytest.raises(ConfigError, match=str(MOST + 1)):
        FastSlic(MOST + 1)


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_slic", None)
    with pytest.raises(PluginError, match="no-build-isolation fast-slic"):
        FastSlic()
