"""Classifiers in one file: what is loaded predicts bit for bit what was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from castssl.checkpoints import Checkpoint, load_encoder, read
from castssl.checkpoints.classifier import Classifier, load_classifier, save_classifier
from castssl.checkpoints.convert import convert
from castssl.checkpoints.hub import save_pretrained
from castssl.checkpoints.load import load_official
from castssl.checkpoints.native import save_encoder, write
from castssl.checkpoints.official_model import classifiers
from castssl.encoder_config import EncoderConfig
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.classification import Supervised
from castssl.objectives.deit import DeiT
from castssl.objectives.tree_kl import TreeKL
from castssl.registry import build
from castssl.types import View
from tests.checkpoints import checkpoints
from tests.checkpoints.checkpoints import SIZES
from tests.parity import filler

TWO = LabelTree((2, 4), ((0, 0, 1, 1),), (("bird", "cat"), ("Amsel, schwarz", "Möwe", "lion", "tiger")))
THREE = LabelTree((2, 3, 4), ((0, 0, 1), (0, 1, 2, 2)))
MADE: dict[str, Any] = {"image_size": 32, "sizes": (16, 8, 4), "membership": "area", "drop_path": 0.1}
GRID = "grid:cell=8"


def view(seed: int = 0) -> View:
    torch.manual_seed(seed)
    return View(torch.randn(2, 3, 32, 32), filler.grid(32, 8).expand(2, -1, -1).int())


def trained(spec: str, tree: LabelTree, name: str = "nano", **options: Any) -> Supervised:
    """A classifier of random weights, each level's large enough to tell."""
    torch.manual_seed(1)
    encoder = create(name, superpixels=GRID, **MADE)
    made = cast(Supervised, build("objectives", spec, encoder, tree, **options))
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
    about: dict[str, Any] = {"spec": spec, "labels": tree, "options": options}
    save_classifier(objective, path, **about)
    found = load_classifier(tmp_path)
    assert (found.labels, found.superpixels, found.image_size, found.known) == (tree, GRID, 32, True)
    assert found.objective.encoder.config == objective.encoder.config
    assert type(found.objective) is type(objective)
    assert not any(module.training for module in found.objective.modules())
    assert found.objective.average is None
    same(predicted(found.objective), predicted(objective))
    if options.get("ema"):
        objective.encoder.requires_grad_(False)
        next(iter(objective.encoder.parameters())).mul_(1.5)
        save_classifier(objective, path, **about, branch="ema")
        same(predicted(load_classifier(path).objective), predicted(objective, "ema"))


def test_who_wants_the_encoder_alone_reads_it_as_before(tmp_path: Path) -> None:
    objective = trained("tree-kl", TWO)
    path = save_classifier(objective, tmp_path / "e.safetensors", spec="tree-kl", labels=TWO)
    checkpoint, encoder = read(path), load_encoder(path)
    assert (checkpoint.objective, checkpoint.labels) == ("tree-kl", TWO)
    cls = encoder(view()).stages[-1].cls
    assert torch.equal(cls, objective.encoder(view()).stages[-1].cls)
    save_pretrained(encoder, tmp_path / "shared")
    assert torch.equal(load_encoder(tmp_path / "shared")(view()).stages[-1].cls, cls)
    heads = classifiers(checkpoint)
    assert [str(head) for head in heads] == [str(nn.Linear(64, count)) for count in (4, 2)]
    for head, own in zip(reversed(heads), cast(TreeKL, objective).model.level_heads, strict=True):
        same(dict(head.state_dict()), dict(own.state_dict()))


def test_a_classifier_without_names(tmp_path: Path) -> None:
    objective = trained("deit", LabelTree.flat("abcd"))
    path = tmp_path / "encoder.safetensors"
    encoder = objective.encoder
    made = Checkpoint(encoder.config, dict(encoder.state_dict()), objective.heads(), objective="deit")
    write(made, path)
    found = load_classifier(path)
    assert found.labels == LabelTree.flat("0123")
    same(predicted(found.objective), predicted(objective))
    assert load_classifier(path, labels=LabelTree.flat("wxyz")).labels.names == (tuple("wxyz"),)
    with pytest.raises(DataError, match=r"classify \(4,\) classes.*has \(2, 4\)"):
        load_classifier(path, labels=TWO)


def test_what_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no weights at"):
        load_classifier(tmp_path / "none")
    save_encoder(create("nano", **MADE), tmp_path / "e.safetensors")
    with pytest.raises(DataError, match=r"holds its sizes, \(16, 8, 4, 2\); leave sizes out"):
        load_classifier(tmp_path / "e.safetensors", sizes=SIZES)
    with pytest.raises(DataError, match=r"encoder without a classifier of images; recipes/deit_in1k\.py, "):
        load_classifier(tmp_path / "e.safetensors")
    torch.save(checkpoints.moco(), tmp_path / "moco.pth")
    with pytest.raises(DataError, match=r"is a cast without a classifier of images; recipes/deit_in1k\.py, "):
        load_classifier(tmp_path / "moco.pth", sizes=SIZES)
    objective = trained("deit", TWO)
    with pytest.raises(ConfigError, match="no average"):
        save_classifier(objective, tmp_path / "x", spec="deit", labels=TWO, branch="ema")


def test_a_head_that_is_no_linear_layer_is_no_classifier(tmp_path: Path) -> None:
    encoder = create("nano", **MADE)
    for heads in (
        {"head.weight": torch.zeros(3)},
        {"head.weight": torch.zeros(3, 64)},
        {"head.weight": torch.zeros(3, 64), "head.bias": torch.zeros(4)},
    ):
        made = Checkpoint(encoder.config, dict(encoder.state_dict()), heads, objective="deit")
        path = write(made, tmp_path / "e.safetensors")
        assert classifiers(read(path)) == []
        with pytest.raises(DataError, match="without a classifier of images"):
            load_classifier(path)


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
    for source in (tmp_path / "in.pth", tmp_path / "ours.safetensors", read(tmp_path / "in.pth")):
        found = load_classifier(source, sizes=SIZES)
        assert found.labels.sizes == classes[::-1]
        assert found.known is (len(classes) == 1)
        assert found.superpixels == "seeds:bins=5,iterations=15,mode=deit"
        for got, value in zip(predicted(found.objective).values(), expected, strict=True):
            torch.testing.assert_close(got, value, atol=1e-6, rtol=1e-6)
    if tree:
        again = load_classifier(tmp_path / "in.pth", labels=tree)
        assert again[1:] == (tree, found.superpixels, 32, True, "bicubic")
        assert again.objective.encoder.config.sizes == (196, 64, 32, 16, 8)


MINE = EncoderConfig("mine", (1, 1, 1, 1, 0), SIZES, 48, superpixels=GRID, image_size=32)


def published_like(tree: LabelTree, path: Path, positions: Any = "learned", **options: Any) -> Classifier:
    """A small model of the published shape with a classifier for each level, in a file."""
    torch.manual_seed(2)
    objective = TreeKL(create(MINE, positions=positions), tree, **options).eval()
    save_classifier(objective, path, spec="tree-kl", labels=tree, options=options)
    return Classifier(objective, tree, GRID, 32)


@pytest.mark.parametrize(
    ("tree", "positions"),
    [(LabelTree.flat("abc"), "learned"), (TWO, "learned"), (TWO, "sincos"), (THREE, "learned")],
)
def test_ours_in_the_published_layout(tree: LabelTree, positions: str, tmp_path: Path) -> None:
    made = published_like(tree, tmp_path / "encoder.safetensors", positions)
    report = convert(tmp_path, tmp_path / "out.pth", layout="official")
    assert "no place for the names" in str(report)
    state = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    heads = [cast(nn.Linear, head) for head in cast(TreeKL, made.objective).model.level_heads]
    for name, head in zip(("head", "family_head", "manufacturer_head"), reversed(heads), strict=False):
        assert torch.equal(state[f"{name}.weight"], head.weight)
    model = load_official(tmp_path / "out.pth", sizes=SIZES)
    assert model.variant == ("cast_deit_hier" if tree.levels > 1 else "cast_deit")
    found = load_classifier(tmp_path / "out.pth", sizes=SIZES)
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
    # Linear layers after the last stages would not compute what these classifiers do.
    assert classifiers(read(tmp_path)) == []


def test_another_objective_has_no_place_there_either(tmp_path: Path) -> None:
    objective = cast(Supervised, build("objectives", "flat", create(MINE), TWO))
    save_classifier(objective, tmp_path / "e.safetensors", spec="flat", labels=TWO)
    with pytest.raises(DataError, match="no place for the classifiers of flat"):
        convert(tmp_path / "e.safetensors", tmp_path / "out.pth", layout="official")
    assert classifiers(read(tmp_path / "e.safetensors")) == []


def test_deit_of_a_tree_is_told_by_its_own_name(tmp_path: Path) -> None:
    objective = trained("deit", TWO)
    path = save_classifier(objective, tmp_path / "e.safetensors", spec="deit", labels=TWO)
    found = load_classifier(path)
    assert isinstance(found.objective, DeiT)
    assert found.objective.columns == [1]
