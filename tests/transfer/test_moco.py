"""Pretraining goes on from a published checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from castssl.errors import DataError
from castssl.objectives.moco import MoCoV3
from castssl.transfer.convert import convert
from castssl.transfer.moco import load_moco
from castssl.transfer.official import load_official
from castssl.transfer.weights import Branch
from castssl.types import Batch, View
from tests.transfer import checkpoints
from tests.transfer.checkpoints import SIZES, state

BRANCHES: tuple[Branch, ...] = ("base", "momentum")


@pytest.mark.parametrize("variant", ["cast", "cast_seg"])
def test_both_branches_and_the_predictor_are_there(variant: str, tmp_path: Path) -> None:
    content = checkpoints.moco(variant)
    moco = load_moco(content, sizes=SIZES, temperature=0.3)
    assert moco.temperature == 0.3
    for branch in BRANCHES:
        official = load_official(content, sizes=SIZES, branch=branch)
        encoder = moco.branch(branch)
        got, expected = encoder.state_dict(), official.encoder.state_dict()
        assert all(torch.equal(got[k], v) for k, v in expected.items())
        projector: nn.Module = moco.projector if branch == "base" else moco.twin["projector"]
        heads = official.head.state_dict()
        assert all(torch.equal(projector.state_dict()[k], v) for k, v in heads.items())
    predictor = {k.removeprefix("layers."): v for k, v in moco.predictor.state_dict().items()}
    assert all(
        torch.equal(predictor[k[17:]], v)
        for k, v in content["state_dict"].items()
        if k.startswith("module.predictor.")
    )
    torch.save(content, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "a.safetensors", sizes=SIZES)
    again = load_moco(tmp_path / "a.safetensors", sizes=SIZES).state_dict()
    assert all(torch.equal(again[k], v) for k, v in moco.state_dict().items())


def test_it_trains_a_step() -> None:
    moco: MoCoV3 = load_moco(checkpoints.moco(), sizes=SIZES)
    assert moco.training
    segments = torch.arange(1024).view(1, 32, 32).expand(4, -1, -1) // 64 % 16
    views = [View(torch.randn(4, 3, 32, 32), segments) for _ in range(2)]
    moco(Batch(views, torch.zeros(4, 0, dtype=torch.int64))).loss.backward()
    moco.after_step(0.5)
    assert moco.encoder.state_dict().keys() == moco.twin["encoder"].state_dict().keys()
    assert all(p.grad is None for p in moco.twin.parameters())


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match="no projector, predictor, twin: pretraining cannot go on"):
        load_moco(state("cast", 4))
    content = checkpoints.moco()
    alone = {k: v for k, v in content["state_dict"].items() if "momentum" not in k}
    with pytest.raises(DataError, match="has no twin"):
        load_moco({"state_dict": alone})
