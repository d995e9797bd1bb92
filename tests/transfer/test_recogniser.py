"""Classifiers in one file: what is loaded predicts bit for bit what was saved."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from castssl.errors import ConfigError, DataError
from castssl.models.create import Preset, assemble, create
from castssl.objectives.deit import DeiT
from castssl.objectives.supervised import Supervised
from castssl.objectives.tree_kl import TreeKL
from castssl.registry import build
from castssl.transfer.convert import convert
from castssl.transfer.encoders import load_encoder, save_encoder
from castssl.transfer.export import heads_of
from castssl.transfer.official import load_official
from castssl.transfer.recogniser import Recogniser, load_recogniser, save_recogniser
from castssl.transfer.source import open_trained
from castssl.types import LabelTree, View
from tests.parity import filler
from tests.transfer import checkpoints
from tests.transfer.checkpoints import SIZES

TWO = LabelTree((2, 4), ((0, 0, 1, 1),), (("bird", "cat"), ("Amsel, schwarz", "Möwe", "lion", "tiger")))
THREE = LabelTree((2, 3, 4), ((0, 0, 1), (0, 1, 2, 2)))
MADE: dict[str, Any] = {"image_size": 32, "sizes": (16, 8, 4), "membership": "area", "drop_path": 0.1}


def view(seed: int = 0) -> View:
    torch.manual_seed(seed)
    return View(torch.randn(2, 3, 32, 32), filler.grid(32, 8).expand(2, -1, -1).int())


def trained(spec: str, tree: LabelTree, name: str = "nano", **options: Any) -> Supervised:
    """A classifier of random weights, each level's large enough to tell."""
    torch.manual_seed(1)
    made = cast(Supervised, build("objectives", spec, create(name, **MADE), tree, **options))
    for value in made.state_dict().values():
        if value.is_floating_point():
            value.add_(0.05 * torch.randn_like(value))
    return made.eval()


def predicted(objective: Supervised, branch: Any = "base") -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(objective.predict(view(), branch))


def same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize(
    ("spec", "tree", "options"),
    [
        ("tree-kl", TWO, {}),
        ("tree-kl:weight=0.2,norm=each", THREE, {"order": "fine-last", "ema": 0.9}),
        ("tree-kl", THREE, {"stages": [-1, -1, -2], "norm": "shared"}),
        ("deit:level=0", TWO, {"bce": True}),
        ("flat", TWO, {"ema": 0.5}),
        ("hrn", THREE, {}),
        ("fgn", TWO, {}),
        ("transhp", THREE, {}),
    ],
)
def test_saved_and_loaded_predicts_the_same(
    spec: str, tree: LabelTree, options: dict[str, Any], tmp_path: Path
) -> None:
    objective = trained(spec, tree, **options)
    path = tmp_path / "encoder.safetensors"
    about: dict[str, Any] = {
        "spec": spec,
        "labels": tree,
        "options": options,
        "name": "nano",
        "superpixels": "grid:cell=8",
    }
    save_recogniser(objective, path, **about, **MADE)
    found = load_recogniser(tmp_path)
    assert (found.labels, found.superpixels, found.image_size, found.known) == (tree, "grid:cell=8", 32, True)
    assert type(found.objective) is type(objective)
    assert not any(module.training for module in found.objective.modules())
    assert found.objective.average is None
    same(predicted(found.objective), predicted(objective))
    if options.get("ema"):
        objective.encoder.requires_grad_(False)
        next(iter(objective.encoder.parameters())).mul_(1.5)
        save_recogniser(objective, path, **about, branch="ema", **MADE)
        same(predicted(load_recogniser(path).objective), predicted(objective, "ema"))


def test_who_wants_the_encoder_alone_reads_it_as_before(tmp_path: Path) -> None:
    objective = trained("tree-kl", TWO)
    path = save_recogniser(
        objective, tmp_path / "e.safetensors", spec="tree-kl", labels=TWO, name="nano", **MADE
    )
    encoder, settings = load_encoder(path)
    assert settings["recogniser"]["objective"] == "tree-kl"
    cls = encoder.eval()(view()).stages[-1].cls
    assert torch.equal(cls, objective.encoder(view()).stages[-1].cls)
    found: Any = open_trained(path).encoder
    found.save_pretrained(tmp_path / "shared")
    assert torch.equal(type(found).from_pretrained(tmp_path / "shared")(view()).stages[-1].cls, cls)
    assert [str(head) for head in heads_of(path)] == [str(nn.Linear(64, count)) for count in (4, 2)]


def test_a_classifier_without_names(tmp_path: Path) -> None:
    """As deit_in1k.py wrote them before the tree was kept."""
    objective = trained("deit", LabelTree.flat("abcd"))
    path = tmp_path / "encoder.safetensors"
    save_encoder(objective.encoder, path, beside=objective.heads(), name="nano", **MADE)
    found = load_recogniser(path)
    assert found.labels == LabelTree.flat("0123")
    same(predicted(found.objective), predicted(objective))
    assert load_recogniser(path, labels=LabelTree.flat("wxyz")).labels.names == (tuple("wxyz"),)
    with pytest.raises(DataError, match=r"tell \(4,\) classes apart.*has \(2, 4\)"):
        load_recogniser(path, labels=TWO)


def test_what_is_no_recogniser(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no weights at"):
        load_recogniser(tmp_path / "none")
    encoder = create("nano", **MADE)
    save_encoder(encoder, tmp_path / "e.safetensors", name="nano", **MADE)
    with pytest.raises(DataError, match=r"encoder without a classifier; recipes/hcast\.py"):
        load_recogniser(tmp_path / "e.safetensors")
    torch.save(checkpoints.moco(), tmp_path / "moco.pth")
    with pytest.raises(DataError, match=r"is a cast without a classifier of images; recipes/hcast\.py"):
        load_recogniser(tmp_path / "moco.pth", sizes=SIZES)
    objective = trained("deit", TWO)
    with pytest.raises(ConfigError, match="no average"):
        save_recogniser(objective, tmp_path / "x", spec="deit", labels=TWO, branch="ema", name="nano")


@pytest.mark.parametrize("classes", [(5,), (5, 3), (6, 5, 3)])
def test_published_models_recognise_what_they_did(classes: tuple[int, ...], tmp_path: Path) -> None:
    variant = "cast_deit" if len(classes) == 1 else "cast_deit_hier"
    torch.save({"model": checkpoints.state(variant, *classes)}, tmp_path / "in.pth")
    official = load_official(tmp_path / "in.pth", sizes=SIZES)
    with torch.no_grad():
        out = official(*view())
    expected = [out] if isinstance(out, Tensor) else list(out)[::-1]
    convert(tmp_path / "in.pth", tmp_path / "ours.safetensors", sizes=SIZES)
    tree = LabelTree((3, 5), ((0, 0, 1, 1, 2),)) if classes == (5, 3) else None
    for source in (tmp_path / "in.pth", tmp_path / "ours.safetensors", official)[2 * (tree is None) :]:
        found = load_recogniser(source, sizes=SIZES)
        assert found.labels.sizes == classes[::-1]
        assert found.known is (len(classes) == 1)
        assert found.superpixels == "seeds:bins=5,iterations=15,mode=deit"
        for got, value in zip(predicted(found.objective).values(), expected, strict=True):
            torch.testing.assert_close(got, value, atol=1e-6, rtol=1e-6)
    if tree:
        assert load_recogniser(official, labels=tree)[1:] == (tree, found.superpixels, 32, True)


SHAPE = Preset(depths=(1, 1, 1, 1, 0), dim=48)


def published_like(tree: LabelTree, path: Path, positions: Any = "learned", **options: Any) -> Recogniser:
    """A small model of the published shape with a classifier for each level, in a file."""
    made: dict[str, Any] = {"sizes": SIZES, "image_size": 32, "positions": positions}
    torch.manual_seed(2)
    objective = TreeKL(assemble(SHAPE, **made), tree, **options).eval()
    about: dict[str, Any] = {
        "spec": "tree-kl",
        "labels": tree,
        "options": options,
        "name": "mine",
        "shape": asdict(SHAPE),
    }
    save_recogniser(objective, path, superpixels="grid:cell=8", **about, **made)
    return Recogniser(objective, tree, "grid:cell=8", 32)


@pytest.mark.parametrize(
    ("tree", "positions"),
    [(LabelTree.flat("abc"), "learned"), (TWO, "learned"), (TWO, "sincos"), (THREE, "learned")],
)
def test_ours_in_the_published_layout(tree: LabelTree, positions: str, tmp_path: Path) -> None:
    made = published_like(tree, tmp_path / "encoder.safetensors", positions)
    report = convert(tmp_path, tmp_path / "out.pth", layout="official")
    assert "no place for the names" in str(report)
    state = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    heads = [cast(nn.Linear, head) for head in cast(TreeKL, made.objective).level_heads]
    for name, head in zip(("head", "family_head", "manufacturer_head"), reversed(heads), strict=False):
        assert torch.equal(state[f"{name}.weight"], head.weight)
    model = load_official(tmp_path / "out.pth", sizes=SIZES)
    assert model.variant == ("cast_deit_hier" if tree.levels > 1 else "cast_deit")
    found = load_recogniser(model)
    for got, value in zip(
        predicted(found.objective).values(), predicted(made.objective).values(), strict=True
    ):
        torch.testing.assert_close(got, value, atol=1e-6, rtol=1e-6)  # No token is empty.


FOUR = LabelTree((2, 2, 2, 2), ((0, 1),) * 3)


@pytest.mark.parametrize(
    ("tree", "options", "message"),
    [
        (FOUR, {}, "4 label levels, at most 3"),
        (TWO, {"norm": "each"}, "norm=each, expected last"),
        (TWO, {"order": "fine-last"}, "order=fine-last, expected that the coarsest"),
        (TWO, {"stages": [-1, -1], "norm": "shared"}, r"stages=\[-1, -1\], .*norm=shared"),
    ],
)
def test_what_the_published_layout_has_no_place_for(
    tree: LabelTree, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    published_like(tree, tmp_path / "encoder.safetensors", **options)
    with pytest.raises(DataError, match=message):
        convert(tmp_path, tmp_path / "out.pth", layout="official")


def test_another_objective_has_no_place_there_either(tmp_path: Path) -> None:
    made: dict[str, Any] = {"sizes": SIZES, "image_size": 32}
    objective = cast(Supervised, build("objectives", "flat", assemble(SHAPE, **made), TWO))
    shape: dict[str, Any] = {"name": "mine", "shape": asdict(SHAPE)}
    save_recogniser(objective, tmp_path / "e.safetensors", spec="flat", labels=TWO, **shape, **made)
    with pytest.raises(DataError, match="no place for the classifiers of flat"):
        convert(tmp_path / "e.safetensors", tmp_path / "out.pth", layout="official")
    assert heads_of(tmp_path / "e.safetensors") == []


def test_deit_of_a_tree_is_told_by_its_own_name(tmp_path: Path) -> None:
    objective = trained("deit", TWO)
    path = save_recogniser(
        objective, tmp_path / "e.safetensors", spec="deit", labels=TWO, name="nano", **MADE
    )
    found = load_recogniser(path)
    assert isinstance(found.objective, DeiT)
    assert found.objective.columns == [1]
