"""The transform makes superpixels in the workers of a foreign data loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import castssl
from castssl.data.normalize import normalize
from castssl.data.to_view import ToView
from castssl.errors import DataError
from castssl.registry import build
from tests.datasets.image_files import make_image, write

SPEC = "seeds:count=16,bins=5,iterations=2"


def test_a_foreign_loader_gives_views(tmp_path: Path) -> None:
    folder = write(tmp_path, ["a/x.png", "a/y.png", "b/z.png"])
    steps = transforms.Compose([transforms.Resize((32, 32)), ToView(SPEC)])
    loader: Any = DataLoader(ImageFolder(str(folder), steps), batch_size=3, num_workers=1)
    ((view, label),) = list(loader)
    assert isinstance(view, castssl.View)
    assert label.tolist() == [0, 0, 1]
    pixels = torch.stack([transforms.PILToTensor()(make_image(i).resize((32, 32), 2)) for i in range(3)])
    assert torch.equal(view.image, normalize(pixels))
    assert torch.equal(view.segments, build("superpixels", SPEC)(pixels))
    encoder = castssl.create("cast_nano", image_size=32, superpixels=SPEC).eval()
    with torch.no_grad():
        assert torch.isfinite(encoder(view).stages[-1].cls).all()


def test_tensors_are_taken_before_they_are_normalized() -> None:
    image = make_image(0)
    tensor = transforms.PILToTensor()(image)
    first, second = ToView("grid:cell=8")(image), ToView("grid:cell=8")(tensor)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(DataError, match="leave ToTensor and Normalize out"):
        ToView("grid:cell=8")(tensor / 255)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 1024).reshape(32, 32).astype(np.uint16)
    view = ToView("grid:cell=8")(Image.fromarray(values))
    gray = torch.from_numpy(np.rint(values / 65535 * 255).astype(np.uint8))
    assert torch.equal(view.image, normalize(gray.expand(3, -1, -1)))
    lighter = ToView("grid:cell=8", value_range=(0, 4095))(Image.fromarray(values // 16))
    assert (lighter.image - view.image).abs().max() < 2 / 255 / 0.2


def test_other_channels_are_an_encoders() -> None:
    config = castssl.create("cast_nano", channels=5, superpixels=SPEC, superpixel_channels=(4, 2, 0)).config
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 32, 32)).astype(np.uint8))
    view, same = ToView(config)(pixels), ToView(config)(pixels.permute(1, 2, 0).numpy())
    assert all(torch.equal(a, b) for a, b in zip(view, same, strict=True))
    assert view.image.shape == (5, 32, 32)
    assert torch.equal(view.segments, build("superpixels", SPEC)(pixels[None, [4, 2, 0]])[0])
    with pytest.raises(DataError, match=r"tensor uint8 \(5, H, W\)"):
        ToView(config)(pixels[:3])
