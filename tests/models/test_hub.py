"""Encoders saved for the hub and built again from their folder, without network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

import castssl
from castssl.errors import ConfigError, DataError
from castssl.models.cast import CAST
from castssl.models.create import create
from castssl.models.fuse import FusedCAST
from castssl.models.resized import resized
from castssl.models.timm_encoder import TimmEncoder
from castssl.pooling.graph import GraphPool
from castssl.transfer.encoders import load_encoder, save_encoder
from castssl.transfer.source import open_trained
from castssl.types import View


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def made(name: str = "nano", **options: Any) -> Any:
    torch.manual_seed(0)
    return create(name, **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    held = b.state_dict()
    return a.state_dict().keys() == held.keys() and all(
        torch.equal(v, held[k]) for k, v in a.state_dict().items()
    )


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
    encoder.save_pretrained(tmp_path / "saved")
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    again = type(encoder).from_pretrained(tmp_path / "saved")
    assert type(again) is type(encoder)
    assert not again.training
    assert again.sizes == encoder.sizes
    assert again.settings == encoder.settings
    assert same(encoder, again)
    x = View(torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.int32))
    with torch.no_grad():
        torch.manual_seed(0)
        expected = encoder.eval()(x).stages[-1].cls
        torch.manual_seed(0)
        assert torch.equal(again(x).stages[-1].cls, expected)


def test_the_config_holds_what_create_was_called_with(tmp_path: Path) -> None:
    made(sizes=(49, 20, 10), drop_path=0.1).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "name": "nano",
        "pooling": "graph",
        "sizes": [49, 20, 10],
        "image_size": 224,
        "membership": "nearest",
        "padding": "mask",
        "positions": "sincos",
        "superpixels": "seeds:count=64,bins=5,iterations=4",
    }
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["castssl"])["name"] == "nano"


def test_the_card_says_how_to_use_it(tmp_path: Path) -> None:
    words = {"licence": "CC-BY-4.0", "details": "Trained on pictures of cups."}
    made().save_pretrained(tmp_path, repo_id="someone/cups", model_card_kwargs=words)
    card = (tmp_path / "README.md").read_text()
    for part in (
        "library_name: castssl",
        'CAST.from_pretrained("someone/cups")',
        'superpixels="seeds:count=64,bins=5,iterations=4"',
        "64, 32, 16, 8 tokens",
        "Trained on pictures of cups.",
        "The weights: CC-BY-4.0",
        f"{sum(p.numel() for p in made().parameters()):,} parameters",
    ):
        assert part in card, part
    assert "{{" not in card
    assert "{%" not in card


def test_the_cards_lines_run(tmp_path: Path) -> None:
    made().save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0].replace("USER/NAME", str(tmp_path / "saved"))
    from castssl.pictures.photographs import photographs

    photo = tmp_path / "photo.png"
    next(picture for _, picture in photographs()).save(photo)
    space: dict[str, Any] = {}
    exec(code.replace("photo.jpg", str(photo)), space)
    assert space["features"].shape == (8, 64)
    assert int(space["labels"].max()) < 8


def test_sizes_at_test_time_are_remembered_and_may_be_given(tmp_path: Path) -> None:
    other: Any = resized(made(), (100, 20, 10, 5))
    other.save_pretrained(tmp_path)
    assert CAST.from_pretrained(tmp_path).sizes == (100, 20, 10, 5)
    assert CAST.from_pretrained(tmp_path, sizes=(80, 8, 4)).sizes == (80, 8, 4, 2)


def test_our_own_files_and_its_folders_know_each_other(tmp_path: Path) -> None:
    encoder = made(image_size=64)
    encoder.save_pretrained(tmp_path)
    loaded, settings = load_encoder(tmp_path / "model.safetensors")
    assert settings["image_size"] == 64
    trained = open_trained(tmp_path)
    assert (trained.superpixels, trained.image_size) == ("seeds:count=64,bins=5,iterations=4", 64)
    path = save_encoder(
        encoder, tmp_path / "e.safetensors", name="nano", image_size=64, superpixels="grid:cell=8"
    )
    loaded, _ = load_encoder(path)
    assert isinstance(loaded, CAST)
    loaded.save_pretrained(tmp_path / "second")
    again = CAST.from_pretrained(tmp_path / "second")
    assert again.settings is not None
    assert again.settings["superpixels"] == "grid:cell=8"
    assert same(encoder, again)
    assert open_trained(again).superpixels == "grid:cell=8"


def test_a_repository_comes_from_the_hubs_cache(tmp_path: Path) -> None:
    """The files that a download leaves behind; nothing is asked of the network."""
    repository = tmp_path / "models--someone--cups"
    made().save_pretrained(repository / "snapshots" / "0123abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    again = CAST.from_pretrained("someone/cups", cache_dir=tmp_path, local_files_only=True)
    assert same(made(), again)


def test_an_encoder_built_by_hand_asks_for_its_settings(tmp_path: Path) -> None:
    encoder = CAST((1, 1, 1, 0), (64, 32, 16, 8), GraphPool, dim=64, heads=2, stride=4)
    with pytest.raises(ConfigError, match=r"built by hand.*castssl\.create"):
        encoder.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    encoder.save_pretrained(tmp_path, config={"name": "nano"})
    assert same(encoder, CAST.from_pretrained(tmp_path))


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    made().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"call CAST\.from_pretrained"):
        FusedCAST.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="holds a CAST"):
        TimmEncoder.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="newer castssl"):
        CAST.from_pretrained(tmp_path, colour="blue")
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"image_size": 224', '"image_size": 64'))
    with pytest.raises(DataError, match="does not hold the weights"):
        CAST.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="no other weights"):
        CAST.from_pretrained(tmp_path)
    config.write_text("{}")
    with pytest.raises(DataError, match=r"no config\.json of a castssl encoder"):
        CAST.from_pretrained(tmp_path)


def test_public_create_makes_encoders_that_can_be_shared() -> None:
    assert callable(getattr(castssl.create("nano"), "push_to_hub"))  # noqa: B009 - not of the contract
