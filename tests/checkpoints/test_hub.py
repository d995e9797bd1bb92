"""Encoders saved for the hub and built again from their folder or from the hub, without network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

import castssl
from castssl.checkpoints.hub import push_to_hub, save_pretrained
from castssl.checkpoints.load import load_encoder, read
from castssl.checkpoints.native import save_encoder
from castssl.errors import ConfigError, DataError
from castssl.models.cast import CAST
from castssl.models.create import create
from castssl.models.presets import PRESETS
from castssl.models.sizes import with_sizes
from castssl.pooling.graph import GraphPool
from castssl.types import View
from tests.checkpoints.hub import prepare, serve

ROOT = Path(__file__).parents[2]
SEEDS = "seeds:count=64,bins=5,iterations=4"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub; nothing is asked of the network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def made(name: str = "nano", **options: Any) -> Any:
    torch.manual_seed(0)
    return create(name, **options)


def same(a: Any, b: Any) -> bool:
    held = b.state_dict()
    return a.state_dict().keys() == held.keys() and all(
        torch.equal(v, held[k]) for k, v in a.state_dict().items()
    )


def without_metadata(path: Path) -> None:
    """What tools leave that write a file anew."""
    save_file(load_file(path), path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nano", {"pooling": "graph:centroids=random", "sizes": (49, 20, 10), "membership": "area"}),
        ("nano", {"padding": "reference", "positions": "learned", "image_size": 64}),
        ("cast_small_seg", {"sizes": (20, 8, 6, 4)}),
        ("timm:resnet10t", {"image_size": 64}),
    ],
)
def test_saved_and_built_again_is_the_same(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    encoder = made(name, **options)
    save_pretrained(encoder, tmp_path / "saved")
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    own = encoder.config.kind == "cast"
    assert [words in card for words in ("A [CAST]", "others work with", "- superpixels\n")] == [own] * 3
    again: Any = load_encoder(tmp_path / "saved")
    assert type(again) is type(encoder)
    assert not again.training
    assert again.sizes == encoder.sizes
    assert again.config == encoder.config
    assert same(encoder, again)
    x = View(torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.int32))
    with torch.no_grad():
        torch.manual_seed(0)
        expected = encoder.eval()(x).stages[-1].cls
        torch.manual_seed(0)
        assert torch.equal(again(x).stages[-1].cls, expected)


def test_the_settings_of_a_run_are_not_replaced(tmp_path: Path) -> None:
    settings = tmp_path / "config.json"
    for text in ('{"lr": 0.1}', "no JSON"):
        settings.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"config\.json does not describe an encoder"):
            save_pretrained(create("nano"), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
        assert settings.read_text(encoding="utf-8") == text
    settings.unlink()
    settings.symlink_to(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"config\.json does not describe an encoder"):
        save_pretrained(create("nano"), tmp_path)
    assert settings.is_symlink()


def test_weights_of_others_are_not_replaced(tmp_path: Path) -> None:
    weights, encoder = tmp_path / "model.safetensors", made("nano")
    for content in (b"no safetensors", save({"a": torch.zeros(1)})):
        weights.write_bytes(content)
        with pytest.raises(ConfigError, match=r"model\.safetensors is not of castssl, and would be replaced"):
            save_pretrained(encoder, tmp_path)
        assert weights.read_bytes() == content
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    save_encoder(encoder, weights)  # As a process that was killed between the files leaves it.
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    assert load_encoder(save_pretrained(encoder, tmp_path)).config == encoder.config


def test_the_config_holds_what_create_was_called_with(tmp_path: Path) -> None:
    save_pretrained(made(sizes=(49, 20, 10), drop_path=0.1), tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings == {
        "format": 2,
        "config": {
            "name": "cast_nano",
            "depths": [1, 1, 1, 0],
            "sizes": [49, 20, 10, 5],
            "dim": 64,
            "heads": 2,
            "stride": 4,
            "pooling": "graph",
            "superpixels": SEEDS,
            "image_size": 224,
            "membership": "nearest",
            "padding": "mask",
            "positions": "sincos",
            "fused": False,
            "dense": False,
            "drop_path": 0.1,
            "channels": 3,
            "superpixel_channels": [],
            "mean": [],
            "std": [],
        },
    }
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["castssl"]) == settings


def test_the_card_says_how_to_use_it(tmp_path: Path) -> None:
    words = {"licence": "CC-BY-4.0", "details": "Trained on pictures of cups."}
    save_pretrained(made(), tmp_path, repo_id="someone/cups", **words)
    card = (tmp_path / "README.md").read_text()
    for part in (
        "library_name: castssl",
        'castssl.load_encoder("hf:someone/cups")',
        f"| superpixels | `{SEEDS}` |",
        "64, 32, 16, 8 tokens",
        "Trained on pictures of cups.",
        "The weights: CC-BY-4.0",
        f"{sum(p.numel() for p in made().parameters()):,} parameters",
    ):
        assert part in card, part
    assert "{{" not in card
    assert "{%" not in card
    save_pretrained(made(), tmp_path, licence="MIT")
    assert (tmp_path / "README.md").read_text() == card


def test_the_cards_lines_run(tmp_path: Path) -> None:
    save_pretrained(made(), tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    assert "hf:USER/NAME" in code
    code = code.replace("hf:USER/NAME", str(tmp_path / "saved"))
    from castssl.visualization.photographs import photographs

    photo = tmp_path / "photo.png"
    next(image for _, image in photographs()).save(photo)
    space: dict[str, Any] = {}
    exec(code.replace("photo.jpg", str(photo)), space)
    assert space["features"].shape == (8, 64)
    assert int(space["labels"].max()) < 8


def test_sizes_at_test_time_are_remembered_and_may_be_given(tmp_path: Path) -> None:
    save_pretrained(with_sizes(made(), (100, 20, 10, 5)), tmp_path)
    again = load_encoder(tmp_path)
    assert again.sizes == again.config.sizes == (100, 20, 10, 5)
    assert with_sizes(again, (80, 8, 4)).sizes == (80, 8, 4, 2)


def test_our_own_files_and_its_folders_know_each_other(tmp_path: Path) -> None:
    encoder = made(image_size=64, superpixels="grid:cell=8")
    save_pretrained(encoder, tmp_path)
    config = load_encoder(tmp_path / "model.safetensors").config
    assert config == load_encoder(tmp_path).config == encoder.config
    assert (config.superpixels, config.image_size) == ("grid:cell=8", 64)
    loaded = load_encoder(save_encoder(encoder, tmp_path / "e.safetensors"))
    assert isinstance(loaded, CAST)
    save_pretrained(loaded, tmp_path / "second")
    again = load_encoder(tmp_path / "second")
    assert again.config.superpixels == "grid:cell=8"
    assert same(encoder, again)
    assert load_encoder(again) is again


@pytest.mark.parametrize("bare", [False, True])
def test_a_repository_comes_from_the_hubs_cache(bare: bool, cache: Path, tmp_path: Path) -> None:
    """The files that a download leaves behind; nothing is asked of the network."""
    save_pretrained(made(), tmp_path / "saved")
    if bare:
        without_metadata(tmp_path / "saved" / "model.safetensors")
    prepare(cache, "someone/cups", tmp_path / "saved")
    again = load_encoder("hf:someone/cups")
    assert again.config == made().config
    assert same(made(), again)


def test_a_runs_folder_may_be_the_repository(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    save_encoder(made(), tmp_path / "run" / "encoder.safetensors")
    prepare(cache, "someone/run", tmp_path / "run")
    assert same(made(), load_encoder("hf:someone/run"))


def test_a_process_reads_the_cache_that_its_environment_names(tmp_path: Path) -> None:
    save_pretrained(made(image_size=32), tmp_path / "saved")
    prepare(tmp_path / "home" / "hub", "someone/cups", tmp_path / "saved")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    out = tmp_path / "out.safetensors"
    done = subprocess.run(
        [sys.executable, "-m", "castssl.cli", "convert", "hf:someone/cups", out],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert same(made(image_size=32), load_encoder(out))


def test_a_repository_is_downloaded(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a server of our own; settings beside weights without metadata come along."""
    save_pretrained(made(), tmp_path / "saved")
    without_metadata(tmp_path / "saved" / "model.safetensors")
    (tmp_path / "run").mkdir()
    save_encoder(made(), tmp_path / "run" / "encoder.safetensors")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "pytorch_model.bin").write_bytes(b"")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for folder, message in (("saved", ""), ("run", ""), ("none", "has neither model.safetensors nor enc")):
        with serve("someone/cups", tmp_path / folder) as (address, asked), monkeypatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", address)
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}")  # fmt: skip # noqa: E501
            if message:
                with pytest.raises(DataError, match=message):
                    load_encoder("hf:someone/cups")
            else:
                assert same(made(), load_encoder("hf:someone/cups"))
            assert "model.safetensors" in asked
        shutil.rmtree(cache)


def test_what_the_hub_cannot_give_says_why(cache: Path) -> None:
    with pytest.raises(DataError, match=r"hf:someone/cups cannot be read from .*check the name and the net"):
        load_encoder("hf:someone/cups")
    with pytest.raises(DataError, match=r"hf:a/b/c cannot be read .*HFValidationError"):
        load_encoder("hf:a/b/c")


def test_an_encoder_built_by_hand_asks_for_its_config(tmp_path: Path) -> None:
    encoder: Any = CAST((1, 1, 1, 0), (64, 32, 16, 8), GraphPool, dim=64, heads=2, stride=4)
    with pytest.raises(ConfigError, match=r"this CAST was built by hand.*castssl\.create"):
        save_pretrained(encoder, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    encoder.config = PRESETS["cast_nano"]
    save_pretrained(encoder, tmp_path / "saved")
    assert same(encoder, load_encoder(tmp_path / "saved"))


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    save_pretrained(made(), tmp_path)
    without_metadata(tmp_path / "model.safetensors")
    assert same(made(), load_encoder(tmp_path))
    config = tmp_path / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"name"', '"color": "blue", "name"'))
    with pytest.raises(DataError, match=r"unknown fields \['color'\]; update castssl"):
        load_encoder(tmp_path)
    config.write_text(text.replace('"image_size": 224', '"image_size": 64'))
    with pytest.raises(DataError, match="does not hold the weights"):
        load_encoder(tmp_path)
    config.write_text("{}")
    with pytest.raises(DataError, match=r"describe no model \(no config\)"):
        load_encoder(tmp_path)
    config.write_text('{"name": "cast_nano", "image_size": 224}')
    with pytest.raises(DataError, match="was written before files held an EncoderConfig"):
        load_encoder(tmp_path)
    config.unlink()
    with pytest.raises(DataError, match=r"state dict of a model of castssl .* config\.json"):
        load_encoder(tmp_path)
    config.write_text(text)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"no weights at .*expected a run's folder"):
        load_encoder(tmp_path)


def test_a_model_of_another_width_is_refused(tmp_path: Path) -> None:
    encoder = made()
    encoder.config = replace(encoder.config, dim=48)
    save_pretrained(encoder, tmp_path)
    with pytest.raises(DataError, match=r"does not hold the weights that its settings describe: cls_token"):
        load_encoder(tmp_path)
    assert read(tmp_path).config.dim == 48


def test_public_create_makes_encoders_that_can_be_shared(tmp_path: Path) -> None:
    """Up to the network, which a test does not have."""
    with pytest.raises(Exception, match="offline mode"):
        push_to_hub(castssl.create("nano"), "someone/cups", token="none")
