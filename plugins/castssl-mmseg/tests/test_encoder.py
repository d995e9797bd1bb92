"""The backbone's tokens are the encoder's, however its superpixels come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample
from torch import Tensor

import castssl
from castssl.checkpoints.hub import save_pretrained
from castssl.data.normalize import normalize
from castssl.errors import ConfigError, ContractError
from castssl.types import View
from castssl_mmseg import CastEncoder, CastHead, ComputeSuperpixels, SuperpixelDataPreProcessor

SIDE = 64
SPEC = "seeds:count=64,bins=5,iterations=4"


def images(count: int = 2) -> Tensor:
    """Blurred noise, uint8 RGB."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(noise, (SIDE, SIDE), mode="bicubic").clamp(0, 1) * 255).byte()


def packed(image: Tensor) -> dict[str, Any]:
    """What ``PackSegInputs`` makes of an image that was read as blue, green, red."""
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, SIDE, SIDE, dtype=torch.long)))
    sample.set_metainfo({"img_shape": (SIDE, SIDE)})
    return {"inputs": image.flip(0), "data_samples": sample}


def batch(*, superpixels: bool) -> Tensor:
    """The model's input, by pipeline and preprocessor."""
    samples = [packed(image) for image in images()]
    if superpixels:
        samples = [ComputeSuperpixels(SPEC).transform(sample) for sample in samples]
    data = {key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")}
    preprocessor = SuperpixelDataPreProcessor(size=(SIDE, SIDE))
    inputs: Tensor = preprocessor(data, training=True)["inputs"]
    return inputs


@pytest.mark.parametrize("superpixels", [True, False])
def test_tokens_are_those_of_the_encoder_in_the_weights(tmp_path: Path, superpixels: bool) -> None:
    encoder = castssl.create("nano_seg", superpixels=SPEC).eval()
    save_pretrained(encoder, tmp_path / "folder")
    backbone = CastEncoder(weights=str(tmp_path / "folder")).eval()
    assert backbone.report is not None
    assert not backbone.report.ignored
    view = View(normalize(images()), castssl.build("superpixels", SPEC)(images()))
    with torch.no_grad():
        expected, (tokens,) = encoder.dense(view), backbone(batch(superpixels=superpixels))
    torch.testing.assert_close(tokens.x, expected.x, atol=1e-6, rtol=1e-6)
    assert torch.equal(tokens.labels, expected.labels)


def test_weights_of_a_plain_model_start_a_fused_one(tmp_path: Path) -> None:
    encoder = castssl.create("nano", superpixels=SPEC).eval()
    save_pretrained(encoder, tmp_path / "folder")
    backbone = CastEncoder(weights=str(tmp_path / "folder"), fused=True).eval()
    assert "fusion" in str(backbone.report)
    view = View(normalize(images()), castssl.build("superpixels", SPEC)(images()))
    with torch.no_grad():
        ours, theirs = backbone.encoder.segment(view), encoder.segment(view)
    for mine, stored in zip(ours.stages, theirs.stages, strict=True):
        torch.testing.assert_close(mine.x, stored.x, atol=1e-6, rtol=1e-6)


def test_any_head_of_mmsegmentation_takes_the_map() -> None:
    backbone = CastEncoder(model="nano", output="map").eval()
    (features,) = backbone(batch(superpixels=True))
    assert features.shape == (2, backbone.dense_dim, SIDE // 4, SIDE // 4)
    head = FCNHead(in_channels=backbone.dense_dim, channels=8, num_classes=3, num_convs=1)
    assert head((features,)).shape == (2, 3, SIDE // 4, SIDE // 4)


def test_a_map_has_a_cell_for_each_part_of_a_stride() -> None:
    backbone = CastEncoder(model="nano", output="map").eval()
    (features,) = backbone(batch(superpixels=True)[..., : SIDE - 3, : SIDE - 2])
    assert features.shape[-2:] == (SIDE // 4, SIDE // 4)


def test_a_window_keeps_its_part_of_the_superpixels() -> None:
    inputs = batch(superpixels=True)
    backbone = CastEncoder(model="nano").eval()
    with torch.no_grad():
        (tokens,) = backbone(inputs[..., 16:48, 8:56])
    window = inputs[:, 3, 16:48, 8:56].long()
    for labels, renumbered in zip(window, tokens.labels, strict=True):
        pairs = torch.stack([labels.flatten(), renumbered.flatten()]).unique(dim=1)
        assert pairs.shape[1] == len(labels.unique()) == len(renumbered.unique())
        assert int(renumbered.max()) == len(renumbered.unique()) - 1


@pytest.mark.parametrize("pooling", ["tome", "random"])
def test_every_registered_pooling_and_superpixels(pooling: str) -> None:
    backbone = CastEncoder(model="nano", pooling=pooling, superpixels="slic:count=40")
    (tokens,) = backbone(batch(superpixels=False))
    assert tokens.x.shape[0] == 2
    assert tokens.x.requires_grad


@pytest.mark.parametrize("superpixels", ["grid:cell=8", SPEC])
def test_images_with_other_constants_give_the_same_tokens(superpixels: str) -> None:
    torch.manual_seed(0)
    usual = CastEncoder(model="nano_seg", superpixels=superpixels, image_size=SIDE).eval()
    other = CastEncoder(
        model="nano_seg", superpixels=superpixels, image_size=SIDE, mean=(127.5, 120, 110), std=(64, 1, 255)
    ).eval()
    other.load_state_dict(usual.state_dict())
    pixels = images().float()
    mean, std = (torch.tensor(values)[:, None, None] for values in ((127.5, 120, 110), (64, 1, 255)))
    with torch.no_grad():
        (expected,), (found,) = usual(normalize(images())), other((pixels - mean) / std)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.x, expected.x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", [None, "nano_seg"])
def test_constants_of_the_weights_are_those_of_the_encoder(
    model: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr("castssl_mmseg.encoder.print_log", lambda text, logger: logged.append(text))
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.25, 0.2)
    encoder = castssl.create(
        "nano_seg", superpixels="grid:cell=8", image_size=SIDE, mean=mean, std=std
    ).eval()
    save_pretrained(encoder, tmp_path / "folder")
    backbone = CastEncoder(str(tmp_path / "folder"), model, "grid:cell=8", image_size=SIDE).eval()
    assert (backbone.encoder.config.mean, backbone.encoder.config.std) == (mean, std)
    labels = castssl.build("superpixels", "grid:cell=8")(images())
    with torch.no_grad():
        expected = encoder.dense(View(normalize(images()), labels))
        (found,) = backbone(batch(superpixels=False))
    torch.testing.assert_close(found.x, expected.x, atol=1e-6, rtol=1e-6)
    assert f"trained with mean {mean} and std {std}" in logged[-1]
    assert "from mean (123.675, 116.28, 103.53) and std (58.395, 57.12, 57.375)" in logged[-1]
    logged.clear()
    CastEncoder(model="nano_seg", superpixels="grid:cell=8")
    assert not logged


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="CastEncoder needs weights"):
        CastEncoder()
    with pytest.raises(ConfigError, match="output: got 'maps', expected 'tokens' or 'map'"):
        CastEncoder(model="nano", output="maps")  # type: ignore[arg-type]
    for constants in ({"mean": (0.5,)}, {"std": (0.2, 0.2, 0.2)}, {"std": (50, 0, 50)}):
        with pytest.raises(ConfigError, match=r"got mean .*, of values 0 to 255 as in data_preprocessor"):
            CastEncoder(model="nano", **constants)
    with pytest.raises(ConfigError, match="runs on the device; leave ComputeSuperpixels out"):
        ComputeSuperpixels("grid:cell=8")
    with pytest.raises(ConfigError, match="behind PackSegInputs"):
        ComputeSuperpixels(SPEC).transform({"img": 1})
    with pytest.raises(ConfigError, match="takes DenseTokens, got a Tensor; give the backbone"):
        CastHead("linear", in_channels=8, num_classes=3)((torch.zeros(1, 8, 4, 4),))


def test_padding_behind_the_superpixels_is_refused() -> None:
    sample = ComputeSuperpixels(SPEC).transform(packed(images()[0]))
    data = {key: [value] for key, value in sample.items()}
    preprocessor = SuperpixelDataPreProcessor(size=(SIDE + 8, SIDE + 8))
    with pytest.raises(ContractError, match="put dict"):
        preprocessor(data, training=True)


def test_a_batch_in_which_some_samples_lack_superpixels_is_refused() -> None:
    samples = [ComputeSuperpixels(SPEC).transform(packed(images()[0])), packed(images()[1])]
    data = {key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")}
    with pytest.raises(ContractError, match=r"1 of the 2 samples .* sample 1, .* all or none: put"):
        SuperpixelDataPreProcessor(size=(SIDE, SIDE))(data, training=True)
