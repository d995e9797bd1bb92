"""Checkpoints taken apart: wrappers, prefixes, branches, and what is refused."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from castssl import load_official
from castssl.checkpoints import read
from castssl.checkpoints.official_layout import take_apart
from castssl.errors import DataError
from tests.checkpoints import checkpoints
from tests.checkpoints.checkpoints import SIZES, VARIANTS, state

HIER = (5, 4, 3)


def classes(variant: str) -> tuple[int, ...]:
    return HIER if variant == "cast_deit_hier" else (4,)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefixes_change_nothing(variant: str) -> None:
    bare = state(variant, *classes(variant))
    expected = take_apart(bare)
    assert (expected.layout.variant, expected.momentum, expected.predictor) == (variant, {}, {})
    wrapped: dict[str, dict[str, Any]] = {
        "distributed": {f"module.{k}": v for k, v in bare.items()},
        "deit": {"model": bare, "optimizer": {}, "lr_scheduler": {}, "epoch": 3, "args": None},
        "moco": {"state_dict": {f"module.base_encoder.{k}": v for k, v in bare.items()}, "epoch": 1},
        "voc": {"embedding_model": {f"vit_backbone.{k}": v for k, v in bare.items()}},
        "segmenter": {
            "model": {f"encoder.{k}": v for k, v in bare.items()} | {"decoder.cls_emb": torch.zeros(1)}
        },
    }
    for name, content in wrapped.items():
        found = take_apart(content)
        assert found.layout == expected.layout, name
        assert found.state.keys() == expected.state.keys(), name
        assert all(torch.equal(found.state[k], v) for k, v in expected.state.items()), name
        assert found.dense is (name == "voc")
    assert "decoder.*" in take_apart(wrapped["segmenter"]).report.ignored


def test_files_of_both_kinds(tmp_path: Path) -> None:
    bare = state("cast", 4)
    expected = load_official(bare, sizes=SIZES).state_dict()
    save_file({k: v.clone() for k, v in bare.items()}, tmp_path / "a.safetensors")
    deit = {"model": bare, "epoch": 1, "args": argparse.Namespace(lr=1.0, data=None)}
    for path in (
        saved(tmp_path / "moco.pth.tar", {"state_dict": bare, "arch": "cast_small"}),
        saved(tmp_path / "deit.pth", deit),
        saved(tmp_path / "bare.pt", bare),
        tmp_path / "a.safetensors",
    ):
        got = load_official(path, sizes=SIZES).state_dict()
        assert all(torch.equal(got[k], v) for k, v in expected.items()), path


def test_the_encoder_that_comes_first_is_explicit() -> None:
    content = checkpoints.moco()
    published, model = take_apart(content), content["state_dict"]
    assert torch.equal(published.state["cls_token"], model["module.base_encoder.cls_token"])
    assert torch.equal(published.momentum["cls_token"], model["module.momentum_encoder.cls_token"])
    assert published.predictor.keys() == {*checkpoints.layers(4, 8, 4)}
    base, momentum = read(content), read(content, which="momentum")
    assert base.extra.keys() == momentum.extra.keys()
    assert not torch.equal(base.encoder["cls_token"], momentum.encoder["cls_token"])
    for one, other in ((base, momentum), (momentum, base)):
        for name, value in one.encoder.items():
            assert torch.equal(other.extra[f"momentum_model.encoder.{name}"], value), name
        for prefix in ("projector.", "published."):
            copied = other.under(f"momentum_model.{prefix}")
            own = {name: v for name, v in one.under(prefix).items() if not name.startswith("momentum_model.")}
            assert own.keys() == copied.keys() != set()
            assert all(torch.equal(copied[name], value) for name, value in own.items())
        assert all(torch.equal(one.under("predictor.layers.")[n], v) for n, v in published.predictor.items())
    with pytest.raises(DataError, match="has no momentum encoder; only MoCo's checkpoints have"):
        read(state("cast"), which="momentum")


def test_the_moving_average_is_explicit() -> None:
    raw, average = state("cast_deit", 4), state("cast_deit", 4, seed=1)
    content = {"model": raw, "model_ema": average, "epoch": 1}
    found, smooth = take_apart(content), take_apart(content, ema=True)
    assert torch.equal(found.state["cls_token"], raw["cls_token"])
    assert torch.equal(smooth.state["cls_token"], average["cls_token"])
    assert found.report.ignored["model_ema"] == "not asked for; ema=True takes it"
    assert smooth.report.ignored["model"] == "not asked for; ema=False takes it"
    with pytest.raises(DataError, match="no model_ema in this checkpoint"):
        take_apart({"model": raw}, ema=True)


def test_everything_is_accounted_for() -> None:
    content = checkpoints.moco()
    content["state_dict"] |= {"module.queue": torch.zeros(2, 2), "module.queue_ptr": torch.zeros(1)}
    report = take_apart(content).report
    prefixes = ("module.base_encoder.", "module.predictor.")
    assert len(report.used) == sum(key.startswith(prefixes) for key in content["state_dict"])
    assert report.ignored.keys() == {"epoch", "arch", "optimizer", "scaler", "queue", "queue_ptr"}
    assert report.merged["blocks2.4.norm1.bias"] == "blocks.4.norm1.bias"
    assert report.renamed["pool1.pool_block.centroid_fc.bias"] == "poolings.0.bias"


@pytest.mark.parametrize(("variant", "entries"), [("cast", 752), ("cast_seg", 498)])
def test_a_whole_moco_checkpoint_has_the_published_number_of_entries(variant: str, entries: int) -> None:
    content = checkpoints.moco(variant)
    assert len(content["state_dict"]) == entries
    found = take_apart(content)
    assert len(found.report.used) == (entries - 10) // 2 + 10


def without(key: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda old: {k: v for k, v in old.items() if k != key}


def put(key: str, value: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda old: old | {key: value}


BROKEN = {
    "one too many": (put("surprise", torch.zeros(1)), r"left over \['surprise'\]"),
    "a fifth pool": (put("pool5.pool_block.fc1.0.bias", torch.zeros(48)), r"left over \['pool5"),
    "one missing": (without("pool4.pool_block.fc2.1.bias"), r"missing \['pool4.pool_block.fc2.1.bias'\]"),
    "no norm": (without("norm.weight"), r"missing \['norm.weight'\]"),
    "a buffer missing": (without("patch_embed.proj.4.running_var"), "proj.4.running_var"),
    "half a head": (without("head.bias"), r"missing \['head.bias'\]"),
    "half a copy": (without("blocks2.3.norm1.bias"), r"\['blocks.3.norm1.bias'\]: the second copy"),
    "copies differ": (put("blocks2.3.norm1.bias", torch.ones(48)), "differs from its other spelling"),
    "wrong shape": (put("cls_token", torch.zeros(1, 2, 48)), r"cls_token of cast .*, expected \(1, 1, 48\)"),
    "wrong width": (put("norm.bias", torch.zeros(96)), r"norm.bias of cast .* \(96,\), expected \(48,\)"),
    "no square": (put("pos_embed", torch.zeros(1, 15, 48)), "pos_embed of a cast has 15 rows"),
    "not finite": (put("norm.bias", torch.full((48,), torch.nan)), "norm.bias of cast is not finite"),
    "no number of H-CAST's": (put("family_head.weight", torch.zeros(3, 48)), "missing .*family_head.bias"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_faulty_state_dict_is_refused_by_name(fault: str) -> None:
    change, message = BROKEN[fault]
    with pytest.raises(DataError, match=message):
        take_apart(change(state("cast", 4)))


def test_faults_in_the_other_parts_of_a_moco_checkpoint() -> None:
    for key, message in {
        "module.momentum_encoder.norm.bias": r"the momentum encoder: missing \['norm.bias'\]",
        "module.predictor.3.weight": r"predictor: missing \['3.weight'\]",
        "module.base_encoder.head.6.weight": r"missing \['head.6.weight'\]",
    }.items():
        content = checkpoints.moco()
        del content["state_dict"][key]
        with pytest.raises(DataError, match=message):
            take_apart(content)
    content = checkpoints.moco()
    content["state_dict"]["module.teacher.x"] = torch.zeros(1)
    with pytest.raises(DataError, match=r"left over \['teacher.x'\]"):
        take_apart(content)


def test_what_lies_beside_the_model_must_be_known() -> None:
    bare = state("cast_deit", 4)
    with pytest.raises(DataError, match="'teacher' lies beside 'model'"):
        take_apart({"model": bare, "teacher": bare})
    with pytest.raises(DataError, match="holds \\['note'\\], which are not tensors"):
        take_apart(bare | {"note": 3})
    with pytest.raises(DataError, match="with and without 'module"):
        take_apart(bare | {"module.cls_token": bare["cls_token"]})
    with pytest.raises(DataError, match="not a CAST checkpoint"):
        take_apart({"fc.weight": torch.zeros(1)})
    with pytest.raises(DataError, match="expected a multiple of 24"):
        take_apart(state("cast_deit", 4, dim=32))
