"""Gray and RGB with other constants: against views that are normalized so by hand."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from castssl.checkpoints import load_encoder
from castssl.checkpoints.convert import convert
from castssl.checkpoints.initialize import initialize
from castssl.checkpoints.native import save_encoder
from castssl.data.normalize import normalize
from castssl.data.views import to_uint8
from castssl.encoder_config import MEAN, STD, EncoderConfig
from castssl.errors import ConfigError, ContractError, DataError
from castssl.models.channels import Channels
from castssl.models.create import create
from castssl.types import View

SHAPE: dict[str, Any] = {"image_size": 32, "sizes": (16, 8, 4)}
AVERAGE = (fmean(MEAN), fmean(STD))


def encoder(**options: Any) -> Any:
    torch.manual_seed(0)
    return create("nano", **SHAPE, **options).eval()


@pytest.fixture
def pixels() -> Tensor:
    """uint8 (2, 3, 32, 32)."""
    return torch.randint(
        0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def view(image: Tensor) -> View:
    return View(image, torch.arange(1024).view(1, 32, 32).expand(2, -1, -1) // 64 % 16)


def by_hand(pixels: Tensor, mean: Any, std: Any) -> Tensor:
    return (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def test_rgb_with_other_constants_is_an_image_that_is_normalized_with_them(pixels: Tensor) -> None:
    mean, std = (0.1, 0.5, 0.3), (0.3, 0.2, 0.1)
    plain, own = encoder(), encoder(mean=mean, std=std)
    own.load_state_dict(plain.state_dict())
    expected = plain(view(by_hand(pixels, mean, std))).stages[-1].cls
    torch.testing.assert_close(own(view(normalize(pixels))).stages[-1].cls, expected, atol=1e-4, rtol=1e-4)


def test_gray_is_the_gray_value_of_pil(pixels: Tensor) -> None:
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    gray = torch.from_numpy(np.array(image.convert("L"))).float() / 255
    read = Channels((0.25,), (0.5,))(normalize(to_uint8(image))[None])
    assert read.shape == (1, 1, 32, 32)
    assert ((read[0, 0] * 0.5 + 0.25) - gray).abs().max() < 0.6 / 255


def test_published_weights_in_a_gray_model_see_a_gray_image_as_before(pixels: Tensor, tmp_path: Path) -> None:
    mean, std = AVERAGE
    published = encoder(mean=(mean,) * 3, std=(std,) * 3)
    rgb = encoder()
    rgb.load_state_dict(published.state_dict())
    save_encoder(rgb, tmp_path / "rgb.safetensors")
    gray = encoder(channels=1)
    report = initialize(gray, tmp_path / "rgb.safetensors")
    assert report.changed == {"stem.layers.0.weight": "3 channels -> 1, summed"}
    assert "channels: the weights had 3, the model has 1" in report.notes
    seen = view(normalize(pixels[:, :1].expand(-1, 3, -1, -1)))
    torch.testing.assert_close(
        gray(seen).stages[-1].cls, published(seen).stages[-1].cls, atol=1e-4, rtol=1e-4
    )


def test_files_keep_the_channels(pixels: Tensor, tmp_path: Path) -> None:
    saved = encoder(channels=1, mean=(0.2,), std=(0.1,))
    save_encoder(saved, tmp_path / "encoder.safetensors")
    again = load_encoder(tmp_path)
    assert (again.config.channels, again.config.mean, again.config.std) == (1, (0.2,), (0.1,))
    seen = view(normalize(pixels))
    assert torch.equal(again.eval()(seen).stages[-1].cls, saved(seen).stages[-1].cls)
    with pytest.raises(DataError, match="channels, mean or std of its own"):
        convert(tmp_path, tmp_path / "published.pth", layout="official")
    plain = encoder()
    with pytest.raises(DataError, match="shape"):
        initialize(plain, tmp_path)


def test_a_config_of_rgb_changes_no_tensor() -> None:
    assert encoder(mean=MEAN).state_dict().keys() == encoder().state_dict().keys()
    values = EncoderConfig("x").to_dict()
    assert (values["channels"], values["mean"], values["std"]) == (3, [], [])
    older = {name: value for name, value in values.items() if name not in {"channels", "mean", "std"}}
    assert EncoderConfig.from_dict(older, "old file") == EncoderConfig("x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "expected 1 .gray., 3 .RGB. or another number"),
        ({"superpixel_channels": (2, 1, 0)}, "superpixel-channels: got .2, 1, 0. for 3 channels"),
        ({"channels": 5, "superpixel_channels": (1, 2, 5)}, "three numbers from 0 to 4"),
        ({"channels": 1, "mean": (0.1, 0.2, 0.3)}, "mean: got 3 values, expected 1"),
        ({"std": (0.1,)}, "std: got 1 values, expected 3"),
        ({"channels": 1, "std": (0.0,)}, "expected shares"),
        ({"channels": 1, "mean": (120.0,)}, "expected shares"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder(**options)


@pytest.mark.parametrize("name", ["timm:test_convnext", "timm-features:test_convnext"])
def test_models_of_timm_read_rgb_with_other_constants(name: str) -> None:
    """Pixels from 0 to 1, and those of other constants, are what the network is given."""
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    view = View((pixels - mean) / std, torch.zeros(2, 32, 32, dtype=torch.int32))
    own: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    given = (pixels - torch.tensor(own["mean"])[:, None, None]) / torch.tensor(own["std"])[:, None, None]
    plain, other = create(name, image_size=32).eval(), create(name, image_size=32, **own).eval()
    other.load_state_dict(plain.state_dict())
    assert other.config.mean == own["mean"]
    with torch.no_grad():
        expected = plain(View(given, view.segments)).stages[-1].cls
        torch.testing.assert_close(other(view).stages[-1].cls, expected)
        assert not torch.allclose(plain(view).stages[-1].cls, expected)


def test_constants_that_an_encoder_does_not_take_are_refused() -> None:
    with pytest.raises(ConfigError, match="colors:8 reads RGB that is normalized by ImageNet"):
        create("colors:8", mean=(0.0, 0.0, 0.0))
    with pytest.raises(ConfigError, match="mean: got 2 values, expected 3"):
        create("timm:test_convnext", mean=(0.0, 0.0))


def test_models_of_plugins_read_rgb() -> None:
    with pytest.raises(ConfigError, match="timm:resnet10t reads RGB"):
        create("timm:resnet10t", channels=1)


def test_published_weights_in_a_model_of_six_channels_see_the_colors_twice(
    pixels: Tensor, tmp_path: Path
) -> None:
    mean, std = AVERAGE
    published = encoder(mean=(mean,) * 3, std=(std,) * 3)
    rgb = encoder()
    rgb.load_state_dict(published.state_dict())
    save_encoder(rgb, tmp_path / "rgb.safetensors")
    six = encoder(channels=6)
    report = initialize(six, tmp_path / "rgb.safetensors")
    assert report.changed == {"stem.layers.0.weight": "3 channels -> 6, repeated and scaled"}
    seen = six(view(normalize(pixels.repeat(1, 2, 1, 1))))
    expected = published(view(normalize(pixels)))
    torch.testing.assert_close(seen.stages[-1].cls, expected.stages[-1].cls, atol=1e-4, rtol=1e-4)
    with pytest.raises(ContractError, match=r"float \(B, 6, H, W\)"):
        six(view(normalize(pixels)))


def test_one_channel_is_read_as_gray(pixels: Tensor) -> None:
    gray = encoder(channels=1, mean=(0.2,), std=(0.1,))
    one = pixels[:, :1]
    expected = gray(view(normalize(one.expand(-1, 3, -1, -1)))).stages[-1].cls
    torch.testing.assert_close(gray(view(normalize(one))).stages[-1].cls, expected, atol=1e-4, rtol=1e-4)
