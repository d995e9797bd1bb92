"""Comparisons with packages that only tests use; `make test` skips them where such a package is missing."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest

from tests.metrics.test_boundary import test_matches_are_those_of_surface_distance as surface_distance
from tests.models.test_timm_registry import test_segmentation_models_pytorch_takes_it_as_an_encoder as unet


@pytest.mark.parametrize(
    ("package", "compare"), [("surface_distance", surface_distance), ("segmentation_models_pytorch", unet)]
)
def test_the_package_is_installed_and_agrees(package: str, compare: Callable[[], None]) -> None:
    import_module(package)
    compare()
