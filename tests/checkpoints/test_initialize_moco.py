"""Pretraining goes on from a published checkpoint, or from a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from castssl.checkpoints import Checkpoint, read
from castssl.checkpoints.checkpoint import Which
from castssl.checkpoints.convert import convert
from castssl.checkpoints.initialize import initialize
from castssl.checkpoints.load import Source, load_official
from castssl.checkpoints.native import objective_weights
from castssl.errors import DataError
from castssl.models.create import create
from castssl.objectives.moco import MoCoV3
from castssl.types import Batch, View
from tests.checkpoints import checkpoints
from tests.checkpoints.checkpoints import HIDDEN, OUT, SIZES, state

BOTH: tuple[Which, ...] = ("base", "momentum")


def moco_of(source: Source, which: Which = "base", **options: Any) -> MoCoV3:
    """An objective of the source's widths whose weights are the source's, as far as it has them."""
    torch.manual_seed(5)
    made = MoCoV3(create(read(source).config, sizes=SIZES), **{"hidden": HIDDEN, "out": OUT, **options})
    initialize(made, source, which=which)
    return made


def same(module: object, expected: dict[str, Tensor]) -> None:
    got = cast(nn.Module, module).state_dict()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("variant", ["cast", "cast_seg"])
def test_both_encoders_projectors_and_the_predictor_are_there(variant: str, tmp_path: Path) -> None:
    content = checkpoints.moco(variant)
    moco = moco_of(content, temperature=0.3)
    assert moco.temperature == 0.3
    projectors = {"base": moco.model.projector, "momentum": moco.momentum_model.projector}
    for which in BOTH:
        official = load_official(content, sizes=SIZES, which=which)
        same(moco.branch(which), official.encoder.state_dict())
        same(projectors[which], official.head.state_dict())
    names = [name for name in content["state_dict"] if name.startswith("module.predictor.")]
    same(moco.model.predictor, {f"layers.{n[17:]}": content["state_dict"][n] for n in names})
    torch.save(content, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "a.safetensors", sizes=SIZES)
    same(moco_of(tmp_path / "a.safetensors"), moco.state_dict())
    # The momentum encoder first: its projector is the one that is trained on.
    other = moco_of(content, "momentum")
    same(other.branch("base"), dict(moco.branch("momentum").state_dict()))
    same(other.branch("momentum"), dict(moco.branch("base").state_dict()))
    same(other.model.projector, dict(moco.momentum_model.projector.state_dict()))
    same(other.model.predictor, dict(moco.model.predictor.state_dict()))


def test_a_runs_objective_goes_on(tmp_path: Path) -> None:
    moco = moco_of(checkpoints.moco())
    objective_weights(moco, moco.encoder).write(tmp_path / "encoder.safetensors")
    same(moco_of(tmp_path), dict(moco.state_dict()))


def test_it_trains_a_step() -> None:
    moco = moco_of(checkpoints.moco())
    assert moco.training
    segments = torch.arange(1024).view(1, 32, 32).expand(4, -1, -1) // 64 % 16
    views = [View(torch.randn(4, 3, 32, 32), segments) for _ in range(2)]
    moco(Batch(views, torch.zeros(4, 0, dtype=torch.int64))).loss.backward()
    moco.after_step(0.5)
    assert moco.encoder.state_dict().keys() == moco.momentum_model.encoder.state_dict().keys()
    assert all(p.grad is None for p in moco.momentum_model.parameters())


def test_what_is_missing_begins_afresh_and_is_named() -> None:
    bare = state("cast", 4)
    moco = MoCoV3(create(read(bare).config, sizes=SIZES), hidden=HIDDEN, out=OUT)
    fresh = {name: value.clone() for name, value in moco.state_dict().items()}
    report = initialize(moco, bare)
    for name in ("projector", "predictor"):
        assert f"not in the weights, begins afresh: {name}.*" in report.notes
        start = f"model.{name}."
        own = {key.removeprefix(start): value for key, value in fresh.items() if key.startswith(start)}
        same(moco.model.get_submodule(name), own)
    assert "not in the weights, a copy of the encoder: the momentum encoder" in report.notes
    expected = load_official(bare, sizes=SIZES).encoder.state_dict()
    same(moco.encoder, expected)
    same(moco.momentum_model.encoder, expected)
    same(moco.momentum_model.projector, dict(moco.model.projector.state_dict()))
    whole = read(checkpoints.moco())
    alone = {name: value for name, value in whole.extra.items() if not name.startswith("momentum_model.")}
    moco = moco_of(replace(whole, extra=alone))
    report = initialize(moco, replace(whole, extra=alone))
    assert "taken over beside the encoder: projector.*, predictor.*" in report.notes
    same(moco.momentum_model.encoder, dict(moco.encoder.state_dict()))
    same(moco.momentum_model.projector, whole.under("projector."))


def test_other_widths_are_refused_by_name() -> None:
    source: Checkpoint = read(checkpoints.moco())
    moco = MoCoV3(create(source.config, sizes=SIZES), hidden=HIDDEN, out=2 * OUT)
    before = {name: value.clone() for name, value in moco.state_dict().items()}
    with pytest.raises(DataError, match=r"the projector in .* has other widths: layers\.6\.weight .* \(4, 8\), expected \(8, 8\).*; give --hidden and --out-dim"):  # fmt: skip # noqa: E501
        initialize(moco, source)
    same(moco, before)
