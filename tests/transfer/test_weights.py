"""Published files: wrappers, prefixes, branches, and what is refused."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from castssl import load_official
from castssl.errors import DataError
from castssl.models.cast import CAST
from castssl.objectives.moco import MoCoV3
from castssl.transfer.weights import stage_depths
from tests.parity import filler, published

DEPTHS = (3, 3, 3, 2)
SIZES = (16, 9, 6, 4, 2)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    zeros = published.zeros(published.cast_shapes(dim=48, classes=4), 48, 4)
    filled = {k: v if k == "pos_embed" else filler.fill(k, v) for k, v in zeros.items()}
    return published.spell(filled, DEPTHS, "head")


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_files_in_their_published_wrappers(tmp_path: Path, state: dict[str, Tensor]) -> None:
    expected = load_official(state, sizes=SIZES).state_dict()
    both = {f"module.{b}_encoder.{k}": v for b in ("base", "momentum") for k, v in state.items()}
    wrapped = {
        "moco.pth.tar": {"epoch": 100, "arch": "cast_small", "state_dict": both},
        "deit.pth": {"model": state, "epoch": 1, "args": argparse.Namespace(lr=1.0)},
        "bare.pt": state,
    }
    for name, content in wrapped.items():
        got = load_official(save(tmp_path / name, content), sizes=SIZES).state_dict()
        assert all(torch.equal(got[k], v) for k, v in expected.items()), name
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "a.safetensors")
    got = load_official(tmp_path / "a.safetensors", sizes=SIZES).state_dict()
    assert all(torch.equal(got[k], v) for k, v in expected.items())


def test_the_branch_is_explicit(state: dict[str, Tensor]) -> None:
    moved = {f"momentum_encoder.{k}": v + 1 if v.is_floating_point() else v for k, v in state.items()}
    both = {f"base_encoder.{k}": v for k, v in state.items()} | moved
    base = load_official(both, sizes=SIZES).state_dict()
    momentum = load_official(both, sizes=SIZES, branch="momentum").state_dict()
    assert torch.allclose(momentum["head.weight"], base["head.weight"] + 1)


def test_a_pretraining_projector_is_kept(state: dict[str, Tensor]) -> None:
    head = {
        "head.0.weight": torch.randn(8, 48),
        "head.3.weight": torch.randn(8, 8),
        "head.6.weight": torch.randn(4, 8),
    }
    for index, affine in (("1", True), ("4", True), ("7", False)):
        width = 8 if affine else 4
        names = ["running_mean", "running_var"] + (["weight", "bias"] if affine else [])
        head |= {f"head.{index}.{name}": torch.rand(width) for name in names}
        head[f"head.{index}.num_batches_tracked"] = torch.tensor(3)
    whole = {k: v for k, v in state.items() if not k.startswith("head.")} | head
    model = load_official(whole, sizes=SIZES)
    assert model(torch.randn(2, 3, 32, 32), torch.arange(1024).view(1, 32, 32) // 64 % 16).shape == (2, 4)


def test_without_a_head_it_gives_features(state: dict[str, Tensor]) -> None:
    bare = {k: v for k, v in state.items() if not k.startswith("head.")}
    assert load_official(bare, sizes=SIZES).variant == "cast"
    encoder = load_official(bare, sizes=SIZES[1:]).encoder
    assert isinstance(encoder, CAST)
    assert encoder.sizes[1:] == SIZES[1:]


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    mark = tmp_path / "ran"
    path = save(tmp_path / "evil.pth", {"model": state, "extra": Bomb(mark)})
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps({"model": Bomb(mark)}))
    for file in (path, plain):
        with pytest.raises(DataError, match="never unpickles"):
            load_official(file)
    assert not mark.exists()


def test_other_files_are_refused_in_plain_words(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(DataError, match="no checkpoint at"):
        load_official(tmp_path / "nothing.pth")
    with pytest.raises(DataError, match="no CAST checkpoint"):
        load_official({"fc.weight": torch.zeros(1)})
    with pytest.raises(DataError, match="left over \\['surprise'\\]"):
        load_official(state | {"surprise": torch.zeros(1)}, sizes=SIZES)
    with pytest.raises(DataError, match="differs from its other spelling"):
        load_official(state | {"blocks2.3.norm1.bias": torch.ones(48)}, sizes=SIZES)
    with pytest.raises(DataError, match="H-CAST"):
        load_official(state | {"family_head.weight": torch.zeros(1)}, sizes=SIZES)


def test_depths_are_counted_from_the_keys(state: dict[str, Tensor]) -> None:
    assert stage_depths(state) == DEPTHS
    deep = {f"blocks.{g}.norm1.bias": torch.zeros(1) for g in range(15)}
    assert stage_depths(deep) == (6, 3, 3, 3)
    with pytest.raises(DataError, match="7 blocks without stage numbers"):
        stage_depths({f"blocks.{g}.norm1.bias": torch.zeros(1) for g in range(7)})


def test_the_encoder_trains_on(state: dict[str, Tensor]) -> None:
    official = load_official(state, sizes=SIZES)
    objective = MoCoV3(official.encoder, hidden=16, out=8)
    assert objective.encoder.dim == 48
