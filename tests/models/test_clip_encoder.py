from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from castssl.checkpoints import load_encoder
from castssl.checkpoints.native import save_encoder
from castssl.errors import ConfigError, DataError
from castssl.models.clip_encoder import ClipEncoder, named
from castssl.models.create import create
from castssl.types import View
from tests.objectives.clips import CONFIG, SIDE, tiny

open_clip: Any = pytest.importorskip("open_clip")


def view(batch: int = 2, side: int = SIDE) -> View:
    image = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    return View(image, torch.zeros(batch, 0, 0, dtype=torch.int32))


@pytest.fixture
def architecture(tmp_path: Path) -> str:
    """The name of a small architecture that open_clip knows."""
    path = tmp_path / "castssl-tiny.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    open_clip.add_model_config(path)
    return path.stem


def test_one_stage_of_cells_and_the_image_vector() -> None:
    encoder = tiny().eval()
    found = encoder(view())
    network: Any = encoder.network
    (stage,) = found.stages
    assert (encoder.dim, encoder.sizes) == (16, (16,))
    assert stage.x.shape == (2, 16, 32)
    assert (
        found.labels(0) == torch.arange(16).view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    ).all()
    image = view().image * encoder.factor + encoder.shift
    torch.testing.assert_close(stage.cls[:, 0], network.encode_image(image))


def test_texts_are_frozen_and_the_copy_reads_the_same() -> None:
    encoder = tiny()
    trained = {name for name, part in encoder.named_parameters() if part.requires_grad}
    assert trained == {f"network.visual.{name}" for name, _ in encoder.network.visual.named_parameters()}  # type: ignore[union-attr]
    twin = copy.deepcopy(encoder)
    names, texts = ["fox", "eagle"], ["a photo of a {}"]
    vectors = encoder.zero_shot(names, texts)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(twin.zero_shot(names, texts), vectors)
    assert encoder.training
    assert twin.scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_by_name_from_a_checkpoint_and_back_from_our_file(architecture: str, tmp_path: Path) -> None:
    weights = tiny().network.state_dict()
    path = tmp_path / "clip.safetensors"
    save_file(weights, path)
    name = f"clip:{architecture}/{path}"
    encoder = create(name, image_size=SIDE)
    assert isinstance(encoder, ClipEncoder)
    assert encoder.config.superpixels == "grid:cell=16"
    for key, value in encoder.network.state_dict().items():
        torch.testing.assert_close(value, weights[key])
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    path.unlink()
    back = load_encoder(tmp_path / "encoder.safetensors")
    torch.testing.assert_close(back(view()).stages[0].cls, encoder.eval()(view()).stages[0].cls)


def test_another_image_size_resizes_positions(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    save_file(tiny().network.state_dict(), path)
    encoder = create(f"clip:{architecture}/{path}", image_size=2 * SIDE)
    assert encoder.sizes == (64,)
    assert encoder(view(side=2 * SIDE)).stages[0].x.shape == (2, 64, 32)


def test_weights_of_another_model_are_refused(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match=f"does not hold the weights of {architecture}"):
        create(f"clip:{architecture}/{path}", image_size=SIDE)


def test_weights_that_openai_trained_get_their_activation() -> None:
    assert named("ViT-B-32/openai") == ("ViT-B-32-quickgelu", "openai")
    assert named("ViT-B-32/laion2b_s34b_b79k").architecture == "ViT-B-32"


def test_unknown_names_are_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="ViT-B-32"):
        create("clip:ViT-B32/openai")
    with pytest.raises(ConfigError, match="laion2b_s34b_b79k"):
        create("clip:ViT-B-32/opnai")


def test_without_a_network_it_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        DataError, match=r"timm/vit_base_patch32_clip_224\.openai.*clip:ViT-B-32-quickgelu//path"
    ):
        create("clip:ViT-B-32/openai")
