"""Published models as modules: heads, stages, position tables, and the account of the tensors."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl import load_official
from castssl.checkpoints import read
from castssl.checkpoints.official import encode
from castssl.checkpoints.official_model import adapt
from castssl.errors import DataError
from castssl.models.cast import CAST
from castssl.models.dense import DenseCAST
from castssl.objectives.moco import MoCoV3
from castssl.registry import build
from castssl.types import View
from tests.checkpoints import checkpoints
from tests.checkpoints.checkpoints import SIZES, state


@pytest.fixture(scope="module")
def view() -> View:
    torch.manual_seed(0)
    return View(torch.randn(2, 3, 32, 32), torch.arange(1024).view(1, 32, 32).expand(2, -1, -1) // 64 % 16)


def test_a_pretraining_projector_is_kept(view: View) -> None:
    content = checkpoints.moco()
    model = load_official(content, sizes=SIZES)
    with torch.no_grad():
        projected = model(*view)
        x = model.encoder(view, model.sizes(view)).stages[-1].cls[:, 0]
    head = {k[25:]: v for k, v in content["state_dict"].items() if k.startswith("module.base_encoder.head.")}
    for i in (0, 3, 6):
        x, norm = x @ head[f"{i}.weight"].T, f"{i + 1}."
        x = (x - head[norm + "running_mean"]) / (head[norm + "running_var"] + 1e-5).sqrt()
        x = x if i == 6 else (x * head[norm + "weight"] + head[norm + "bias"]).relu()
    torch.testing.assert_close(projected, x, atol=1e-5, rtol=1e-4)


def test_without_a_head_it_gives_features(view: View) -> None:
    model = load_official(state("cast"), sizes=SIZES)
    assert model.variant == "cast"
    assert model(*view).shape == (2, checkpoints.DIM)
    fewer = load_official(state("cast"), sizes=SIZES[1:]).encoder
    assert isinstance(fewer, CAST)
    assert fewer.sizes[1:] == SIZES[1:]


def test_an_early_level_of_hcast_reads_an_early_stage_without_norm(view: View) -> None:
    fine, mid, coarse = load_official(state("cast_deit_hier", 5, 4, 3), sizes=SIZES)(*view)
    assert (fine.shape, mid.shape, coarse.shape) == ((2, 5), (2, 4), (2, 3))
    changed = state("cast_deit_hier", 5, 4, 3)
    changed["norm.weight"] = changed["norm.weight"] + 1
    other = load_official(changed, sizes=SIZES)(*view)
    assert torch.equal(other[0], fine)
    assert torch.equal(other[1], mid)
    assert not torch.equal(other[2], coarse)
    changed = state("cast_deit_hier", 5, 3)
    changed["blocks.6.norm1.bias"] = changed["blocks3.6.norm1.bias"] = torch.ones(48)
    before, after = (load_official(s, sizes=SIZES)(*view) for s in (state("cast_deit_hier", 5, 3), changed))
    assert not torch.equal(before[0], after[0])  # of two levels the fine one reads the third stage


@pytest.mark.parametrize(
    ("variant", "stage", "expected"),
    [
        ("cast_seg", None, (2, 4)),
        ("cast_seg", "segmentation", (2, 16, 4)),
        ("cast_seg_deit", None, (2, 17, 48)),
    ],
)
def test_stages_of_the_segmentation_models(
    variant: str, stage: str, expected: tuple[int, ...], view: View
) -> None:
    model = load_official(state(variant, 4), sizes=SIZES, stage=stage)  # type: ignore[arg-type]
    assert model(*view).shape == expected
    assert isinstance(model.encoder, DenseCAST) is (len(expected) == 3)


def test_position_tables_are_resized_on_request_only() -> None:
    for variant in ("cast", "cast_deit"):
        bare = state(variant, 4)
        kept, wider = (load_official(bare, sizes=SIZES, image_size=s) for s in (None, 64))
        old = kept.encoder.positions
        assert old.shape[-1] == 4
        expected = F.interpolate(old, (8, 8), mode="bicubic", align_corners=False)
        torch.testing.assert_close(wider.encoder.positions, expected)
        assert "pos_embed" not in kept.report.changed
        assert wider.report.changed["pos_embed"] == "grid 4 x 4 -> 8 x 8, bicubic"
        assert torch.equal(kept.encoder.cls_token, wider.encoder.cls_token)
        assert wider.encoder.config.image_size == 64
    with pytest.raises(DataError, match="multiple of 8 pixels, got 60"):
        load_official(bare, image_size=60)


def test_the_class_tokens_row_is_not_resized() -> None:
    bare = state("cast_deit", 4)
    wider = encode(adapt(read(bare), None, 56)).state
    assert wider["pos_embed"].shape == (1, 50, 48)
    assert torch.equal(wider["pos_embed"][:, 0], bare["pos_embed"][:, 0])
    assert torch.equal(wider["cls_token"], bare["cls_token"])


def test_deit_becomes_the_encoder_of_a_segmenter(view: View) -> None:
    bare = state("cast_deit", 4)
    model = load_official(bare, sizes=SIZES, stage="segmentation")
    assert (model.variant, model.stage) == ("cast_seg_deit", "segmentation")
    assert model(*view).shape == (2, 17, 48)
    assert "initialized, to be trained" in model.report.changed["block_fusion.*"]
    assert torch.equal(
        model.encoder.state_dict()["stages.1.blocks.0.norm1.bias"], bare["blocks.3.norm1.bias"]
    )
    for variant, stage in (("cast", "segmentation"), ("cast_seg_deit", "pretrain")):
        with pytest.raises(DataError, match="stage"):
            load_official(state(variant, 4), stage=stage)  # type: ignore[arg-type]


def test_the_report_says_what_became_of_the_file(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "castssl.checkpoints"):
        report = load_official(checkpoints.moco(), sizes=SIZES, image_size=64).report
    text = str(report)
    for line in (
        "variant cast",
        "used: 381 tensors, 132 of them second copies of a block",
        "changed: pos_embed: grid 4 x 4 -> 8 x 8, bicubic",
        "ignored: optimizer: state of the optimizer",
        "note: beside the encoder: momentum_model.*, predictor.*, projector.*, published.*",
        'note: padding="reference"',
    ):
        assert line in text, text
    assert text in caplog.text


@pytest.mark.parametrize("variant", checkpoints.VARIANTS)
def test_the_superpixels_of_each_variant_exist(variant: str) -> None:
    model = load_official(state(variant, *((5, 3) if variant == "cast_deit_hier" else (4,))), sizes=SIZES)
    assert build("superpixels", model.encoder.config.superpixels).capacity(224, 224) >= 196


def test_the_encoder_trains_on(view: View) -> None:
    official = load_official(state("cast", 4), sizes=SIZES)
    objective = MoCoV3(official.encoder, hidden=16, out=8)
    assert objective.encoder.dim == 48


def test_float64_stays_float64(view: View) -> None:
    wide = {k: v.double() if v.is_floating_point() else v for k, v in state("cast_seg_deit").items()}
    out: Tensor = load_official(wide, sizes=SIZES)(view.image.double(), view.segments)
    assert out.dtype == torch.float64
