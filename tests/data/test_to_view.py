"""The transform makes superpixels in the workers of a foreign data loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
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
