"""The views of evaluation against torchvision's transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision import transforms as T

from castssl.data.evaluation_views import CenterView, SquashedView
from castssl.errors import ConfigError
from tests.datasets.image_files import make_image


@pytest.mark.parametrize(("size", "shorter"), [(224, 256), (96, 109), (7, 8)])
def test_center_view_is_resize_and_crop(size: int, shorter: int) -> None:
    image = make_image(2, (300, 280))
    oracle = T.Compose([T.Resize(shorter), T.CenterCrop(size), T.PILToTensor()])
    assert torch.equal(CenterView(size)(image)[0], oracle(image))
    assert not torch.equal(CenterView(size, interpolation="bicubic")(image)[0], oracle(image))


@pytest.mark.parametrize("size", [(40, 20), (17, 33), (24, 24)])
def test_a_squashed_view_is_the_whole_image(size: tuple[int, int]) -> None:
    image = make_image(0, size)
    (view,) = SquashedView(24).crop(image)
    resized = T.Resize((24, 24))(image)
    assert torch.equal(view.image, torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy()))
    assert (view.box, view.flipped) == ((0, 0, 1, 1), False)
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        SquashedView(0)


def test_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="'cubic'"):
        CenterView(8, interpolation="cubic")
    with pytest.raises(ConfigError, match=r"0\.5"):
        CenterView(8, 0.5)
