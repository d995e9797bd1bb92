"""A tiny SAM with random weights from file to label maps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castssl.errors import ConfigError, DataError, PluginError
from castssl.installer import install
from castssl.testing import segmenters
from castssl_sam.levels import parts_and_objects
from castssl_sam.sam import Sam

IMAGE = segmenters.images()["sample-1.png"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model."""
    sam: Any = pytest.importorskip("transformers", reason=f"needs transformers: {install('transformers')}")
    size: dict[str, Any] = {"hidden_size": 16, "image_size": 64, "patch_size": 16}
    heads: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16}
    torch.manual_seed(0)
    model = sam.SamModel(
        sam.SamConfig(
            vision_config=sam.SamVisionConfig(
                **size, **heads, output_channels=16, num_pos_feats=8, window_size=0, global_attn_indexes=[0]
            ),
            prompt_encoder_config=sam.SamPromptEncoderConfig(**size, mask_input_channels=4),
            mask_decoder_config=sam.SamMaskDecoderConfig(
                hidden_size=16, **heads, iou_head_hidden_dim=16, iou_head_depth=2, attention_downsample_rate=1
            ),
        )
    )
    processor = sam.SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )
    folder = tmp_path_factory.mktemp("sam")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_the_contract(tiny: str) -> None:
    """All checks, of a model that keeps masks of any quality."""
    for check in segmenters.checks:
        check(f"sam:{tiny},points=2,min_iou=-9.0,min_stability=0.0")


def test_masks_of_the_model_become_parts_and_objects(tiny: str) -> None:
    segmenter = Sam(tiny, points=3, min_iou=-9.0, min_stability=0.0)
    generate, seen = segmenter.generate, []

    def recorded(*args: Any, **options: Any) -> Any:
        seen.append(generate(*args, **options))
        return seen[-1]

    segmenter.generate = recorded
    maps = segmenter(IMAGE, "1.png")
    masks = np.stack([np.asarray(mask) > 0 for mask in seen[0]["masks"]])
    assert len(masks) > 0
    assert np.array_equal(maps, parts_and_objects(masks))
    assert maps.max() > 0


def test_no_mask_is_one_segment(tiny: str) -> None:
    maps = Sam(tiny, points=2, min_iou=2.0)(IMAGE)
    assert maps.shape == (2, *IMAGE.shape[:2])
    assert not maps.any()


def test_a_source_that_is_no_model(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="such as sam:facebook/sam-vit-base"):
        Sam("")
    with pytest.raises(DataError, match="cannot be read"):
        Sam(str(tmp_path))


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PluginError, match=r"needs transformers: .*install"):
        Sam("facebook/sam-vit-base")
