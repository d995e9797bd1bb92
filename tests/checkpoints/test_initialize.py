"""Training begins from weights: what is taken over, what is said about it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from castssl.checkpoints import read
from castssl.checkpoints.classifier import save_classifier
from castssl.checkpoints.initialize import initialize
from castssl.checkpoints.load import load_official
from castssl.checkpoints.native import save_encoder
from castssl.encoder_config import EncoderConfig
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.models.presets import PRESETS
from castssl.objectives.deit import DeiT
from castssl.objectives.tree_kl import TreeKL
from castssl.tokens.positions import resize
from castssl.types import View
from castssl_baselines.flat import Flat
from tests.checkpoints import checkpoints
from tests.checkpoints.checkpoints import SIZES
from tests.parity import filler

TREE = LabelTree((2, 4), ((0, 0, 1, 1),), (("a", "b"), ("c", "d", "e", "f")))
MADE: dict[str, Any] = {"image_size": 32, "sizes": (16, 8, 4)}
MINE = EncoderConfig("mine", sizes=SIZES, dim=48, image_size=32)


def encoder(name: str = "nano", seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return create(name, **{**MADE, **options})


def saved(folder: Path, name: str = "nano", **options: Any) -> dict[str, Tensor]:
    """An encoder in a run's folder; returns its state."""
    made = encoder(name, seed=7, **options)
    save_encoder(made, folder / "encoder.safetensors")
    return dict(made.state_dict())


def equal(module: nn.Module, state: dict[str, Tensor], *but: str) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]) is not name.startswith(but or "nothing"), name


def test_the_same_model_takes_everything(tmp_path: Path) -> None:
    state, mine = saved(tmp_path), encoder()
    report = initialize(mine, tmp_path)
    equal(mine, state)
    assert (report.variant, sorted(report.used)) == ("cast_nano", sorted(state))
    assert not report.notes
    assert not report.changed


def test_another_image_size_and_kind_of_positions(tmp_path: Path) -> None:
    state = saved(tmp_path)
    mine = encoder(image_size=64, positions="learned", padding="reference")
    report = initialize(mine, tmp_path)
    assert torch.equal(mine.positions, resize(state["positions"], 16, 16))
    assert mine.positions.requires_grad
    equal(mine, state | {"positions": mine.positions})
    assert report.changed == {"positions": "grid 8 x 8 -> 16 x 16, bicubic"}
    assert report.notes == [
        "padding: the weights had mask, the model has reference",
        "positions: the weights had sincos, the model has learned",
    ]
    config = read(tmp_path).config
    assert config == replace(PRESETS["cast_nano"], image_size=32, sizes=(16, 8, 4, 2))
    assert config.superpixels == "seeds:count=64,bins=5,iterations=4"
    assert create(config).state_dict().keys() == state.keys()


def test_poolings_of_another_kind_begin_afresh(tmp_path: Path) -> None:
    state, mine = saved(tmp_path, pooling="random"), encoder()
    fresh = {name: value.clone() for name, value in mine.state_dict().items()}
    report = initialize(mine, tmp_path)
    equal(mine, state | {name: value for name, value in fresh.items() if name.startswith("poolings.")})
    assert report.notes[0] == "not in the weights, begin afresh: poolings.0.*, poolings.1.*, poolings.2.*"
    other = encoder(pooling="random")
    saved(tmp_path)
    assert initialize(other, tmp_path).ignored == {
        "poolings.0.*, poolings.1.*, poolings.2.*": "the model has no such parts"
    }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nano", {}, r"a cast_deit, which cannot start a cast_nano; it has .*has shape \(1, 1, 48\), exp"),
        ("timm:resnet10t", {"sizes": None}, "cannot start a timm:resnet10t; it lacks .* it has "),
    ],
)
def test_another_model_is_refused(name: str, options: Any, message: str, tmp_path: Path) -> None:
    torch.save({"model": checkpoints.state("cast_deit", 4)}, tmp_path / "in.pth")
    mine = encoder(name, **options)
    before = {key: value.clone() for key, value in mine.state_dict().items()}
    with pytest.raises(DataError, match=message):
        initialize(mine, tmp_path / "in.pth")
    equal(mine, before)


def test_a_model_without_a_name_has_a_config_to_begin_from(tmp_path: Path) -> None:
    torch.save({"model": checkpoints.state("cast_deit", 4)}, tmp_path / "in.pth")
    config = read(tmp_path / "in.pth").config
    assert config.name not in PRESETS
    mine: Any = create(config)
    report = initialize(mine, tmp_path / "in.pth")
    equal(mine, read(tmp_path / "in.pth").encoder)
    assert "positions" not in report.changed
    assert not [note for note in report.notes if "beside" not in note]


def test_another_width_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, "nano_vit", sizes=(16, 16, 16))
    with pytest.raises(DataError, match=r"holds a nano_vit, which cannot start a mine; .*--model nano_vit"):
        initialize(create(replace(PRESETS["nano_vit"], name="mine", dim=48), image_size=32), tmp_path)
    with pytest.raises(DataError, match="no weights at"):
        initialize(encoder(), tmp_path / "none")


@pytest.mark.parametrize("variant", ["cast", "cast_deit", "cast_deit_hier", "cast_seg"])
def test_published_weights(variant: str, tmp_path: Path) -> None:
    if variant in {"cast", "cast_seg"}:
        content = checkpoints.moco(variant)
    else:
        content = {"model": checkpoints.state(variant, *(5, 3)[: 1 + (variant == "cast_deit_hier")])}
    torch.save(content, tmp_path / "in.pth")
    official = load_official(tmp_path / "in.pth", sizes=SIZES)
    learned: Any = "learned" if "deit" in variant else "sincos"
    mine: Any = create(MINE, image_size=64, positions=learned)
    report = initialize(mine, tmp_path / "in.pth")
    assert "grid 4 x 4 -> 8 x 8" in report.changed["positions"]
    state = official.encoder.state_dict() | {"positions": resize(official.encoder.positions, 8, 8)}
    fresh = [name for name in mine.state_dict() if variant == "cast_seg" and name.startswith("norm.")]
    equal(mine, {**state, **{name: mine.state_dict()[name] for name in fresh}})
    assert ("not in the weights, begin afresh: norm.*" in report.notes) is bool(fresh)
    assert ("fusion.*" in report.ignored) is bool(fresh)


def test_the_shape_of_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "slim", EncoderConfig("slim", dim=48))
    torch.save({"model": checkpoints.state("cast_deit", 4)}, tmp_path / "in.pth")
    assert read(tmp_path / "in.pth").config == EncoderConfig(
        "slim",
        dim=48,
        sizes=(196, 64, 32, 16, 8),
        pooling="graph:heads=12,padding=reference,exact=true,cls=mlp,kappa=5.0,average=hidden",
        superpixels="seeds:bins=5,iterations=15,mode=deit",
        image_size=32,
        padding="reference",
        positions="learned",
    )


@pytest.mark.parametrize("option", ["cls=keep", "kappa=6", "average=output"])
def test_published_weights_in_another_pooling_are_named(option: str, tmp_path: Path) -> None:
    torch.save({"model": checkpoints.state("cast_deit", 4)}, tmp_path / "in.pth")
    mine: Any = create(MINE, positions="learned", pooling=f"graph:{option}")
    notes = initialize(mine, tmp_path / "in.pth").notes
    published = "graph:heads=12,padding=reference,exact=true,cls=mlp,kappa=5.0,average=hidden"
    assert f"pooling: the weights had {published}, the model has graph:{option}" in notes
    assert load_official(tmp_path / "in.pth", sizes=SIZES).encoder.config.pooling == published


def test_the_average_begins_with_the_weights_too(tmp_path: Path) -> None:
    state = saved(tmp_path)
    objective = TreeKL(encoder(), TREE, ema=0.9)
    initialize(objective, tmp_path)
    equal(cast(nn.Module, objective.encoder), state)
    equal(cast(nn.Module, objective.branch("ema")), state)
    flat = Flat(encoder(), TREE)
    initialize(flat, tmp_path)
    for each in (flat.encoder, *flat.model.coarser):
        equal(cast(nn.Module, each), state)


def test_heads_are_taken_over_if_they_are_asked_for_and_fit(tmp_path: Path) -> None:
    trained = TreeKL(encoder(seed=3), TREE, weight=0.1)
    save_classifier(trained, tmp_path / "encoder.safetensors", spec="tree-kl", labels=TREE)
    view = View(torch.randn(2, 3, 32, 32), filler.grid(32, 8).expand(2, -1, -1))
    mine = TreeKL(encoder(seed=4), TREE, ema=0.5).eval()
    fresh = mine.model.level_heads[0].state_dict()["weight"].clone()
    report = initialize(mine, tmp_path)
    assert torch.equal(mine.model.level_heads[0].state_dict()["weight"], fresh)
    assert report.ignored["the classifiers"] == "heads=True takes them over"
    initialize(mine, tmp_path, heads=True, labels=TREE)
    for branch in ("base", "ema"):
        got = mine.predict(view, branch)
        for name, value in trained.eval().predict(view).items():
            assert torch.equal(got[name], value)
    with pytest.raises(ConfigError, match="got an encoder alone"):
        initialize(mine.encoder, tmp_path, heads=True)
    others = LabelTree(TREE.sizes, TREE.parents, (("a", "b"), ("c", "d", "e", "g")))
    with pytest.raises(DataError, match=r"other classes than this data: \['f', 'g'\]"):
        initialize(mine, tmp_path, heads=True, labels=others)
    with pytest.raises(DataError, match=r"a TreeKL of \(2, 3\) classes: level_heads.1.bias has shape \(4,\)"):
        initialize(TreeKL(encoder(), LabelTree((2, 3), ((0, 0, 1),))), tmp_path, heads=True)
    with pytest.raises(DataError, match="do not fit a DeiT"):
        initialize(DeiT(encoder(), TREE), tmp_path, heads=True)
    saved(tmp_path)
    with pytest.raises(DataError, match="has no classifiers to take over; leave heads out"):
        initialize(mine, tmp_path, heads=True)


def test_heads_of_published_weights(tmp_path: Path) -> None:
    torch.save({"model": checkpoints.state("cast_deit_hier", 4, 2)}, tmp_path / "in.pth")
    official = load_official(tmp_path / "in.pth", sizes=SIZES)
    made = create(MINE, positions="learned")
    mine = TreeKL(made, TREE)
    initialize(mine, tmp_path / "in.pth", heads=True)
    equal(mine.model.level_heads[0], official.coarser[0].state_dict())
    equal(mine.model.level_heads[1], official.head.state_dict())
    with pytest.raises(DataError, match="do not fit a Flat"):
        initialize(Flat(made, TREE), tmp_path / "in.pth", heads=True)
