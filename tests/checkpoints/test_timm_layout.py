"""The way to timm and back: a run's folder in ``create_model``, timm's checkpoints in ``castssl.load``."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import castssl
import castssl.models
from castssl.checkpoints import read
from castssl.checkpoints.classifier import save_classifier
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.objectives.deit import DeiT
from tests.acceptance.test_hostile_files import LFS

SPEC = "grid:cell=8"
CLASSES = LabelTree.flat([*"abcde"])
CheckpointSaver: Any = import_module("timm.utils").CheckpointSaver


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run at 48 pixels with other superpixels and sizes than the preset."""
    torch.manual_seed(7)
    encoder = castssl.create("cast_nano", image_size=48, superpixels=SPEC, sizes=(36, 12, 6))
    folder = tmp_path_factory.mktemp("run")
    save_classifier(DeiT(encoder, CLASSES), folder / "encoder.safetensors", spec="deit", labels=CLASSES)
    return folder


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """The tensors of a model."""
    return dict(tuned(img_size=64).state_dict())


def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((80, 64))


def probabilities(model: Any) -> tuple[str, float]:
    level = model.classify(photo()).path[0]
    return level.name, level.probability


def tuned(**options: Any) -> Any:
    """A model as a loop with timm leaves it."""
    torch.manual_seed(3)
    model: Any = timm.create_model("cast_nano", num_classes=4, **options)
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def saved(model: Any, folder: Path, **flags: Any) -> Path:
    """The file that timm's own saver of ``train.py`` writes."""
    args = argparse.Namespace(model="cast_nano", img_size=None, model_kwargs={}, lr=0.1)
    vars(args).update(flags)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = {"args": args, "checkpoint_dir": str(folder), "recovery_dir": str(folder)}
    CheckpointSaver(model, optimizer, **options).save_checkpoint(0, metric=1.0)
    return folder / "last.pth.tar"


def test_create_model_takes_the_folder_of_a_run(run: Path) -> None:
    model: Any = timm.create_model("cast_nano", checkpoint_path=str(run), num_classes=5).eval()
    trained = castssl.load(run, device="cpu")
    config = trained.encoder.config
    assert (model.spec, model.encoder.sizes) == (SPEC, (36, 12, 6, 3))
    own = model.encoder.config
    assert (own.image_size, own.sizes, own.superpixels) == (config.image_size, config.sizes, SPEC)
    settings: Any = import_module("timm.data").resolve_model_data_config(model)
    assert settings["input_size"] == (3, 48, 48)
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        view = model.view(x)
        assert torch.equal(model(x), trained.classifier.objective.predict(view)["class"])
        assert torch.equal(model.forward_features(x)[:, 0], trained.encoder(view).stages[-1].cls[:, 0])


def test_what_the_caller_gives_counts(run: Path) -> None:
    given: dict[str, Any] = {"img_size": 64, "superpixels": "grid:cell=16", "sizes": (16, 8, 4)}
    model: Any = timm.create_model("cast_nano", checkpoint_path=str(run), num_classes=5, **given)
    assert (model.spec, model.encoder.sizes) == ("grid:cell=16", (16, 8, 4, 2))
    assert model.encoder.positions.shape[-1] == 16
    with pytest.raises(ConfigError, match="was trained with pooling='graph': give create_model the same"):
        timm.create_model("cast_nano", checkpoint_path=str(run), pooling="random")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of encoder\.safetensors, model\.safetensors"):
        timm.create_model("cast_nano", checkpoint_path=str(tmp_path))
    (tmp_path / "encoder.safetensors").write_text(LFS)
    with pytest.raises(DataError, match="run git lfs pull where it lies"):
        timm.create_model("cast_nano", checkpoint_path=str(tmp_path))


def test_other_models_are_loaded_by_timm(tmp_path: Path) -> None:
    vit: Any = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=1)
    torch.save({"state_dict": vit.state_dict()}, tmp_path / "vit.pth")
    path = str(tmp_path / "vit.pth")
    again: Any = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, checkpoint_path=path)
    assert torch.equal(again.head.weight, vit.head.weight)


@pytest.mark.parametrize(
    "flags", [{}, {"img_size": 62, "model_kwargs": {"superpixels": SPEC, "sizes": [64, 20, 10]}}], ids=str
)
def test_a_model_of_timm_comes_back(flags: dict[str, Any], tmp_path: Path) -> None:
    options = {"img_size": 64, **flags}
    model = tuned(**options | options.pop("model_kwargs", {}))
    found = castssl.load(saved(model, tmp_path, **flags), device="cpu")
    config = found.encoder.config
    assert (config.name, config.image_size) == ("cast_nano", flags.get("img_size", 64))
    assert (config.superpixels, config.sizes) == (model.spec, model.encoder.sizes)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        view = model.view(x)
        assert torch.equal(found.classifier.objective.predict(view)["class"], model(x))
    assert found.segment(photo()).labels(-1).shape == (64, 80)
    assert probabilities(found)[0] in {"0", "1", "2", "3"}
    named = castssl.load(tmp_path / "last.pth.tar", labels=LabelTree.flat([*"wxyz"]), device="cpu")
    assert probabilities(named) == ("wxyz"[int(probabilities(found)[0])], probabilities(found)[1])


def test_channels_and_constants_of_a_model_of_timm_come_back(tmp_path: Path) -> None:
    options: dict[str, Any] = {"mean": (0.5, 0.4, 0.3, 0.2), "std": (0.1, 0.2, 0.3, 0.4)}
    options |= {"superpixel_channels": (3, 1, 0), "superpixels": SPEC}
    model = tuned(img_size=64, in_chans=4, **options)
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    found = castssl.load(saved(model, tmp_path, in_chans=4, model_kwargs=lists), device="cpu")
    assert found.encoder.config.superpixel_channels == (3, 1, 0)
    x = torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.classifier.objective.predict(model.view(x))["class"], model(x))
    constants = read(saved(tuned(img_size=64, in_chans=1), tmp_path, mean=[0.5], std=[0.25])).config
    assert (constants.channels, constants.mean, constants.std) == (1, (0.5,), (0.25,))
    constants = read(saved(tuned(img_size=64), tmp_path, mean=[0.5], std=[0.25])).config
    assert (constants.channels, constants.mean, constants.std) == (3, (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"mean": "0.5"}, "have mean '0.5', expected a list of numbers"),
        ({"std": ["a"]}, r"have std .*, expected a list of numbers"),
        ({"mean": 0.5}, "have mean '0.5', expected a list of numbers"),
        ({"model_kwargs": {"sizes": ["64", "20", "10"]}}, "have sizes .*, expected a list of numbers"),
        ({"model_kwargs": {"superpixel_channels": "012"}}, "have superpixel_channels '012'"),
        ({"model_kwargs": {"superpixels": 7}}, "have superpixels '7', expected what castssl.EncoderConfig"),
        ({"model_kwargs": {"padding": "zeros"}}, "have padding 'zeros', expected what castssl.EncoderConfig"),
        ({"model_kwargs": "sizes=64"}, "have model_kwargs 'sizes=64', expected values by name"),
        ("--mean 0.5", "have args '--mean 0.5', expected values by name"),
    ],
    ids=str,
)
def test_arguments_of_other_types_are_refused(args: Any, words: str, state: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=words):
        read({"state_dict": state, "args": args, "arch": "cast_nano"})


def test_parts_that_are_missing_or_of_other_types(state: dict[str, Any]) -> None:
    assert read({"state_dict": state, "label_names": 3}).labels is None
    headless = {name: value for name, value in state.items() if name != "head.bias"}
    assert read({"state_dict": headless, "label_names": [*"wxyz"]}).labels is None
    assert read({"state_dict": state, "label_names": [*"wxyz"]}).labels == LabelTree.flat([*"wxyz"])
    with pytest.raises(DataError, match="holds a NoneType as state_dict_ema"):
        read({"state_dict": state, "state_dict_ema": None}, ema=True)
    others = {"encoder.stages.0.weight": torch.zeros(1), "encoder.positions": torch.zeros(1, 1, 8, 8)}
    for arch in ("", "cast_nano"):
        with pytest.raises(DataError, match=r"timm trained .*, expected one of cast_small"):
            read({"state_dict": state, "state_dict_ema": others, "arch": arch}, ema=True)


def test_other_layouts_of_timm(tmp_path: Path) -> None:
    model = tuned(img_size=64)
    state = model.state_dict()
    wrapped = {f"module._orig_mod.{name}": value for name, value in state.items()}
    average = {name: value + 1 for name, value in state.items()}
    torch.save({"state_dict": wrapped, "state_dict_ema": average}, tmp_path / "x.pth")
    for source in (tmp_path / "x.pth", state, {"state_dict": state, "arch": "timmcast"}):
        found = read(source)
        assert (found.config.name, found.config.image_size, found.objective) == ("cast_nano", 64, "deit")
        assert torch.equal(found.encoder["norm.weight"], state["encoder.norm.weight"])
    moved = read(tmp_path / "x.pth", ema=True)
    assert torch.equal(moved.heads["head.bias"], state["head.bias"] + 1)
    with pytest.raises(DataError, match="no moving average"):
        read(state, ema=True)
    names = {"img_size": 64, "num_classes": 4}
    config: dict[str, Any] = {"label_names": [*"wxyz"]}
    save: Any = timm.models.save_for_hf
    save(model, str(tmp_path / "hf"), model_config=config, model_args=names, safe_serialization=True)
    shared = castssl.load(tmp_path / "hf", device="cpu")
    assert probabilities(shared)[0] in set("wxyz")
    encoder = castssl.load({name: value for name, value in state.items() if "head" not in name}, device="cpu")
    with pytest.raises(DataError, match="without a classifier of images"):
        encoder.classify(photo())
    with pytest.raises(DataError, match=r"timm trained cast_huge in .*, expected one of cast_small"):
        read({"state_dict": {**state, "encoder.cls_token": torch.zeros(1, 1, 5)}, "arch": "cast_huge"})
