"""Every kind of source is accepted alike: by ``read``, by ``load_encoder`` and by ``castssl convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from castssl.checkpoints import load_encoder, read
from castssl.checkpoints.classifier import save_classifier
from castssl.checkpoints.hub import save_pretrained
from castssl.checkpoints.native import objective_weights, save_encoder
from castssl.cli import main
from castssl.contracts import Encoder
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.moco import MoCoV3
from castssl.objectives.tree_kl import TreeKL
from tests.checkpoints import checkpoints
from tests.checkpoints.hub import prepare

OURS = ("run", "moco run", "classifier", "file", "file under another name", "shared", "hub", "hub's run")
PUBLISHED: dict[str, tuple[str, tuple[int, ...]]] = {
    "cast": ("cast", (4,)),
    "cast_deit": ("cast_deit", (4,)),
    "cast_deit_hier, 2 levels": ("cast_deit_hier", (5, 3)),
    "cast_deit_hier, 3 levels": ("cast_deit_hier", (5, 4, 3)),
    "cast_seg": ("cast_seg", (4,)),
    "cast_seg_deit": ("cast_seg_deit", (4,)),
}


def ours(kind: str, folder: Path, cache: Path) -> str:
    """A source with the weights of a nano."""
    torch.manual_seed(0)
    encoder: Encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=8")
    path = folder / ("other.safetensors" if "another" in kind else "encoder.safetensors")
    if kind in {"shared", "hub"}:
        save_pretrained(encoder, folder)
    elif kind == "moco run":
        moco = MoCoV3(encoder, hidden=8, out=4)
        objective_weights(moco, encoder).write(path)
    elif kind == "classifier":
        tree = LabelTree((2, 3), ((0, 0, 1),))
        save_classifier(TreeKL(encoder, tree), path, spec="tree-kl", labels=tree)
    else:
        save_encoder(encoder, path)
    if kind.startswith("hub"):
        prepare(cache, "someone/cups", folder)
        return "hf:someone/cups"
    return str(path if kind.startswith("file") else folder)


def accepted(source: str, tmp_path: Path) -> None:
    """Hold the three doors against each other."""
    whole, out = read(source), tmp_path / "out" / "converted.safetensors"
    encoder = load_encoder(source)
    assert encoder.config == whole.config
    same(encoder.state_dict(), whole.encoder)
    out.parent.mkdir()
    assert main(["convert", source, str(out)]) == 0
    again = read(out)
    assert again.config == whole.config
    assert (again.objective, again.options) == (whole.objective, whole.options)
    assert (again.labels, again.variant) == (whole.labels, whole.variant)
    for part in ("encoder", "heads", "extra"):
        same(getattr(again, part), getattr(whole, part))
    same(load_encoder(out).state_dict(), whole.encoder)


def same(got: Any, expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("kind", OURS)
def test_castssls_own(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "in").mkdir()
    accepted(ours(kind, tmp_path / "in", tmp_path / "hub"), tmp_path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", [*PUBLISHED, "moco cast", "moco cast_seg"])
def test_published(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"in.{suffix}"
    if kind in PUBLISHED:
        variant, classes = PUBLISHED[kind]
        state = checkpoints.state(variant, *classes)
        content: Any = {"model": state, "epoch": 3}
    else:
        variant = kind.removeprefix("moco ")
        content = checkpoints.moco(variant)
        state = content["state_dict"]
    if suffix == "pth":
        torch.save(content, path)
    else:
        save_file({name: value.clone() for name, value in state.items()}, path)
    assert read(path).variant == variant
    accepted(str(path), tmp_path)
    official = tmp_path / "out" / f"back.{suffix}"
    assert main(["convert", str(tmp_path / "out" / "converted.safetensors"), str(official), "--layout", "official"]) == 0  # fmt: skip # noqa: E501
    accepted(str(official), official.parent)
    assert read(official).variant == variant
