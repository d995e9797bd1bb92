"""castssl's own files: what is written is read again, bit for bit, and others are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from castssl.checkpoints import Checkpoint, load_encoder, read
from castssl.checkpoints.native import FORMAT, objective_weights, save_encoder, write
from castssl.contracts import Encoder
from castssl.encoder_config import EncoderConfig
from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.moco import MoCoV3

MADE: dict[str, Any] = {"sizes": (16, 8, 4), "image_size": 32}


def nano(seed: int = 0, **options: Any) -> Encoder:
    torch.manual_seed(seed)
    return create("nano", **MADE, **options)


def same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def with_settings(path: Path, settings: object) -> None:
    """The same tensors with other metadata."""
    save_file(load_file(path), path, metadata={"castssl": json.dumps(settings)})


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    encoder = nano(pooling="graph:centroids=random", superpixels="grid:cell=8")
    path = save_encoder(encoder, tmp_path / "e.safetensors")
    again = load_encoder(path)
    assert again.config == encoder.config
    assert again.config.superpixels == "grid:cell=8"
    assert again.sizes == (16, 8, 4, 2)
    assert not again.training
    same(again.state_dict(), encoder.state_dict())
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]


def test_all_of_a_checkpoint_is_read_again(tmp_path: Path) -> None:
    tree = LabelTree((2, 3), ((0, 0, 1),), (("a", "b"), ("c", "d", "e")))
    encoder = nano()
    made = Checkpoint(
        encoder.config,
        dict(encoder.state_dict()),
        {"level_heads.0.weight": torch.randn(2, 64)},
        {"projector.layers.0.weight": torch.randn(4, 64)},
        "tree-kl",
        {"weight": 0.2, "stages": [-1, -2]},
        tree,
        "cast_deit_hier",
    )
    path = write(made, tmp_path / "all.safetensors")
    with safe_open(path, "pt") as file:
        names, settings = set(file.keys()), json.loads(file.metadata()["castssl"])
    assert names == {*made.encoder, "heads.level_heads.0.weight", "extra.projector.layers.0.weight"}
    assert settings == {
        "format": 2,
        "config": encoder.config.to_dict(),
        "objective": "tree-kl",
        "options": {"weight": 0.2, "stages": [-1, -2]},
        "labels": json.loads(json.dumps(tree.to_dict())),
        "variant": "cast_deit_hier",
    }
    again = read(path)
    assert (again.config, again.objective, again.options) == (made.config, made.objective, made.options)
    assert (again.labels, again.variant, again.source) == (tree, "cast_deit_hier", str(path))
    for part in ("encoder", "heads", "extra"):
        same(getattr(again, part), getattr(made, part))
    assert read(again) is again


def test_the_objective_is_in_the_file_of_its_encoder(tmp_path: Path) -> None:
    moco = MoCoV3(nano(), hidden=8, out=4)
    for value in moco.momentum_model.state_dict().values():
        value.add_(1)
    base = read(objective_weights(moco, moco.encoder).write(tmp_path / "base.safetensors"))
    same(base.encoder, dict(moco.encoder.state_dict()))
    same(base.under("momentum_model.encoder."), dict(moco.momentum_model.encoder.state_dict()))
    same(base.under("momentum_model.projector."), dict(moco.momentum_model.projector.state_dict()))
    same(base.under("projector."), dict(moco.model.projector.state_dict()))
    same(base.under("predictor."), dict(moco.model.predictor.state_dict()))
    assert {name.partition(".")[0] for name in base.extra} == {"projector", "predictor", "momentum_model"}
    momentum = read(objective_weights(moco, moco.branch("momentum")).write(tmp_path / "momentum.safetensors"))
    same(momentum.encoder, dict(moco.momentum_model.encoder.state_dict()))
    same(momentum.extra, base.choose("momentum").extra)
    same(read(tmp_path / "base.safetensors", which="momentum").encoder, momentum.encoder)
    same(read(tmp_path / "momentum.safetensors", which="momentum").encoder, base.encoder)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no weights at"):
        load_encoder(tmp_path / "no.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(DataError, match="not a complete safetensors file"):
        load_encoder(tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(DataError, match=r"not a CAST checkpoint: expected keys cls_token.*got a"):
        load_encoder(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "nano", "image_size": 32}, r"e\.safetensors was written before files held an Encod"),
        ({"shape": {"dim": 64}, "sizes": [16, 8]}, "train again, or convert the published weights again"),
        ({"format": 2}, r"describe no model \(no config\)"),
        ({"format": 2, "config": 3}, r"describe no model \(config\)"),
        ({"format": 3, "config": {"name": "nano"}}, "has format 3 .*reads format 2: update castssl"),
        ({"config": {"name": "nano"}}, "format None .*update castssl"),
        ({"format": 2, "config": {"name": "nano"}, "sound": 1}, "settings .*'sound'.*update castssl"),
        ({"format": 2, "config": {"dim": 64}}, "have no name"),
        ({"format": 2, "config": {"name": "nano", "color": "blue"}}, r"unknown fields \['color'\]; update"),
        ({"format": 2, "config": {"name": "nano", "dim": 64.5}}, r"have dim 64\.5"),
        ({"format": 2, "config": {"name": "nano", "padding": "none"}}, "have padding none"),
        ([], "describe no model"),
    ],
)
def test_settings_that_cannot_be_read_say_why(settings: object, message: str, tmp_path: Path) -> None:
    path = save_encoder(nano(), tmp_path / "e.safetensors")
    with_settings(path, settings)
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_config_is_json_and_back() -> None:
    config = EncoderConfig("mine", (1, 2, 0), (9, 4, 2), positions="learned", fused=True, drop_path=0.1)
    text = json.dumps({"format": FORMAT, "config": config.to_dict()})
    assert EncoderConfig.from_dict(json.loads(text)["config"], "here") == config


@pytest.mark.parametrize("name", ["clip:ViT-B-32//etc/passwd", "clip:ViT-B-32/openai", "timm:a\\b"])
def test_an_encoder_is_not_named_by_what_would_be_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = nano()
    made = Checkpoint(encoder.config, dict(encoder.state_dict()))
    made.config = replace(made.config, name=name)
    path = write(made, tmp_path / "e.safetensors")
    monkeypatch.setattr("castssl.checkpoints.checkpoint.create", lambda config: pytest.fail("it was built"))
    with pytest.raises(DataError, match="is a path or a model to download; expected an architecture alone"):
        load_encoder(path)
