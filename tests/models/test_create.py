"""Models by name."""

from __future__ import annotations

import pytest
import torch

from castssl.errors import ConfigError
from castssl.models.create import create
from castssl.models.timm_encoder import TimmEncoder
from castssl.types import View


def test_a_misspelt_model_names_the_likely_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cast_small'"):
        create("cast_smal")


def test_sizes_are_completed_for_the_hierarchy() -> None:
    model = create("nano", sizes=(49, 20, 10))
    assert model.sizes == (49, 20, 10, 5)
    with pytest.raises(ConfigError, match="one size per stage"):
        create("nano", sizes=(49, 20))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "swin_tiny_patch4_window7_224"])
def test_timm_models_have_one_stage(name: str) -> None:
    model = create(f"timm:{name}", image_size=224)
    assert isinstance(model, TimmEncoder)
    hierarchy = model(View(torch.randn(2, 3, 224, 224), torch.zeros(2, 0, 0, dtype=torch.int32)))
    (tokens,) = hierarchy.stages
    assert tokens.cls.shape == (2, 1, model.dim)
    assert tokens.x.shape[1] == model.sizes[0]
    assert hierarchy.labels(0).shape == (2, 224, 224)
    assert len(set(hierarchy.labels(0).flatten().tolist())) == model.sizes[0]


def test_an_unknown_timm_model_is_an_error_with_names() -> None:
    with pytest.raises(ConfigError, match=r"no model 'swin_tony'.*swin_"):
        create("timm:swin_tony")


def test_nano_is_an_alias_of_cast_nano() -> None:
    assert create("nano").config == create("cast_nano").config
    assert create("nano").config.name == "cast_nano"
