"""Weights and names from strangers: no memory is asked for, no terminal is controlled, causes are named."""

from __future__ import annotations

import json
import resource
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import castssl
from castssl.checkpoints.classifier import save_classifier
from castssl.checkpoints.hub import save_pretrained
from castssl.checkpoints.native import save_encoder
from castssl.datasets.unreadable import Clipped, Ledger
from castssl.feed import Unreadable
from castssl.labels import LabelTree
from castssl.objectives.deit import DeiT
from tests.acceptance.conftest import Command
from tests.forked import ROOT

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
ESCAPE = "a\x1b]0;owned\x07\x1b[31mb"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder of ``save_pretrained``."""
    model = castssl.create("nano", image_size=32)
    save_pretrained(model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.effect_noise((40, 40), 60).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def settings_of(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return dict(json.loads(file.metadata()["castssl"]))


def with_settings(path: Path, settings: object) -> None:
    text = settings if isinstance(settings, str) else json.dumps(settings)
    save_file(load_file(path), path, metadata={"castssl": text, "format": "pt"})


def with_config(settings: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {**settings, "config": {**settings["config"], **changes}}


@pytest.fixture
def little_memory() -> Any:
    """So little address space beyond what is in use that a hostile allocation fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "change",
    [
        lambda s: with_config(s, image_size=10**8),
        lambda s: with_config(s, dim=768),
        lambda s: with_config(s, depths=[10**9]),
        lambda s: with_config(s, sizes=[10**13, 8, 4, 2]),
        lambda s: with_config(s, sizes=[1e30, 8, 4, 2]),
        lambda s: with_config(s, superpixels=[1]),
        lambda s: with_config(s, sizes=[10**11, 1, 1, 1]),
        lambda s: with_config(s, superpixels=5),
        lambda s: with_config(s, color="blue"),
        lambda s: {**s, "objective": {}},
        lambda s: {**s, "config": []},
        lambda s: {**s, "format": 3},
        lambda s: [],
        lambda s: {},
        lambda s: '{"name":',
        lambda s: "[" * 100_000,
    ],
)
def test_settings_of_another_encoder_are_refused_before_memory_is_asked_for(
    change: Callable[[dict[str, Any]], object], tmp_path: Path, weights: Path, photo: Path, command: Command
) -> None:
    file = weights / "model.safetensors"
    with_settings(file, change(settings_of(file)))
    done = command("segment", photo, "--weights", file, "--out", tmp_path / "out")
    assert done.code == 1, done
    assert "settings" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("little_memory")
def test_settings_of_a_larger_clip_are_refused(
    tmp_path: Path, weights: Path, photo: Path, command: Command
) -> None:
    pytest.importorskip("open_clip")
    file = weights / "model.safetensors"
    with_settings(file, with_config(settings_of(file), name="clip:ViT-bigG-14"))
    done = command("segment", photo, "--weights", file, "--out", tmp_path / "out")
    assert done.code == 1, done
    assert "does not hold the weights that its settings describe" in done.err


@pytest.mark.usefixtures("little_memory")
def test_a_pretrained_folder_of_another_encoder_is_refused(weights: Path) -> None:
    file = weights / "model.safetensors"
    save_file(load_file(file), file)  # Without metadata, the settings beside it count.
    settings = json.loads((weights / "config.json").read_text())
    assert castssl.load_encoder(weights).config.name == "cast_nano"
    for change, words in (
        ({"image_size": 10**8}, "does not hold the weights that its settings describe"),
        ({"sizes": [10**13, 8, 4, 2]}, "of 32 x 32 pixels"),
        ({"channels": 10**11}, "channels in tensors of at most"),
    ):
        (weights / "config.json").write_text(json.dumps(with_config(settings, **change)))
        with pytest.raises(castssl.DataError, match=words):
            castssl.load_encoder(weights)


@pytest.mark.usefixtures("little_memory")
def test_a_classifier_of_other_classes_is_refused(tmp_path: Path, photo: Path, command: Command) -> None:
    encoder = castssl.create("nano", image_size=32)
    tree = LabelTree((3,), (), (("a", "b", "c"),))
    path = tmp_path / "encoder.safetensors"
    save_classifier(DeiT(encoder, tree), path, spec="deit", labels=tree)
    settings = settings_of(path)
    labels = {**tree.to_dict(), "sizes": [10**11], "names": []}
    childless = {**labels, "sizes": [10**11, 3], "parents": [[0, 0, 1]]}
    for part, value, words in (
        ("labels", labels, "do not fit"),
        ("labels", {**labels, "sizes": 3}, "label tree"),
        ("labels", childless, "without a child [2, 3, 4, 5, 6]"),
        ("labels", None, "describe no model"),
        ("objective", 5, "describe no model"),
        ("options", "x", "describe no model"),
        ("options", {"smoothing": "x"}, "smoothing"),
    ):
        with_settings(path, {**settings, part: value})
        done = command("predict", photo, "--weights", path)
        assert done.code == 1, (part, value, done)
        assert words in done.err, (part, value, done)


@pytest.mark.parametrize("name", ["clip:ViT-S-32-alt", "timm:vit_tiny_patch16_224", "nano_vit"])
def test_settings_of_every_kind_of_model_pass(name: str, tmp_path: Path) -> None:
    if name.startswith("clip:"):
        pytest.importorskip("open_clip")
    encoder = castssl.create(name, image_size=64)
    loaded = castssl.load_encoder(save_encoder(encoder, tmp_path / "encoder.safetensors"))
    assert isinstance(encoder, nn.Module)
    assert isinstance(loaded, nn.Module)
    torch.testing.assert_close(loaded.state_dict(), encoder.state_dict(), rtol=0, atol=0)


def test_a_pointer_of_git_lfs_in_place_of_weights_of_clip(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    (tmp_path / "clip.safetensors").write_text(LFS)
    with pytest.raises(castssl.DataError, match="run git lfs pull"):
        castssl.create(f"clip:ViT-S-32-alt/{tmp_path / 'clip.safetensors'}")


def test_warnings_about_images_do_not_control_the_terminal(caplog: pytest.LogCaptureFixture) -> None:
    Ledger().note([Unreadable(ESCAPE, ESCAPE), Clipped(ESCAPE, ESCAPE)])
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert "\x1b" not in message
        assert message.count(r"\x1b") == 4


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.pth.tar"])
def test_a_pointer_of_git_lfs_in_place_of_weights(
    name: str, tmp_path: Path, photo: Path, command: Command
) -> None:
    (tmp_path / name).write_text(LFS)
    for arguments in (
        ("segment", photo, "--weights", tmp_path / name, "--out", tmp_path / "out"),
        ("predict", photo, "--weights", tmp_path / name),
        ("convert", tmp_path / name, tmp_path / "new.safetensors"),
        ("export", tmp_path / name, "--to", "torch-export", "--out", tmp_path / "new.pt2"),
    ):
        done = command(*arguments)
        assert done.code == 1
        assert "run git lfs pull" in done.err, done


def test_names_do_not_control_the_terminal(tmp_path: Path, weights: Path, command: Command) -> None:
    folder = tmp_path / "data"
    for split in ("train", "val"):
        for name in (ESCAPE, "other"):
            (folder / split / name).mkdir(parents=True)
            Image.effect_noise((32, 32), 60).convert("RGB").save(folder / split / name / "x.png")
    (folder / "train" / "other" / f"{ESCAPE}.txt").write_text("no image")
    (tmp_path / f"{ESCAPE}.png").write_bytes(b"no image")
    printed = [
        command("tree", f"folder:{folder}"),
        command("tree", f"folder:{tmp_path / ESCAPE}"),
        command("segment", tmp_path / f"{ESCAPE}.png", "--weights", weights, "--out", tmp_path / "out"),
        command("superpixels", tmp_path / f"{ESCAPE}.png", "--backends", "grid"),
    ]
    for done in printed:
        assert "\x1b" not in done.out + done.err
        assert "\x07" not in done.out + done.err
        assert "\\x1b" in done.out + done.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu", "meta"])
def test_a_device_that_is_not_there_is_refused_first(device: str, tmp_path: Path, command: Command) -> None:
    missing = tmp_path / "none"
    for arguments in (
        ("segment", missing, "--weights", missing, "--out", tmp_path / "out"),
        ("predict", missing, "--weights", missing),
        ("superpixels", missing),
    ):
        done = command(*arguments, "--device", device)
        assert done.code == 1
        assert "--device" in done.err
        assert device in done.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("name", ["stages", "model"])
def test_a_benchmark_refuses_a_device_that_is_not_there(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ROOT / "recipes" / "benchmarks" / f"{name}.py"
    monkeypatch.setattr("sys.argv", [str(script), "--device", "cuda"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "--device cuda: there is none" in capsys.readouterr().err
