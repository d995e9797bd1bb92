"""Norms with parameters for each image; tests/evaluation/test_adaptation.py has whole encoders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from castssl.errors import ConfigError
from castssl.models.per_image_norms import per_image_norms


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.LayerNorm(4), (3, 5, 4)),
        (nn.LayerNorm(4, bias=False), (3, 2, 5, 4)),
        (nn.BatchNorm1d(4), (3, 4)),
        (nn.BatchNorm1d(4), (3, 4, 5)),
        (nn.BatchNorm2d(4), (3, 4, 5, 6)),
    ],
    ids=str,
)
def test_each_image_has_its_own_parameters(norm: nn.Module, shape: tuple[int, ...]) -> None:
    norm.eval()
    x = torch.randn(shape)
    with per_image_norms(nn.Sequential(norm), 3) as copies:
        torch.testing.assert_close(norm(x), norm.forward(x))
        for name in copies:
            copies[name] = torch.randn(3, 4)
        found = norm(x)
    for image in range(3):
        own = {name.removeprefix("0."): values[image] for name, values in copies.items()}
        expected = torch.func.functional_call(norm, own, x[image : image + 1])
        torch.testing.assert_close(found[image : image + 1], expected)
    torch.testing.assert_close(norm(x), norm.forward(x))


class Flattened(nn.Module):
    """A norm that sees the tokens of all images as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.norm(x.flatten(0, 1))
        return rows


def test_norms_that_cannot_be_adapted_are_refused() -> None:
    for network, got in ((nn.GroupNorm(2, 4), "got GroupNorm"), (nn.Linear(4, 4), "got none")):
        with pytest.raises(ConfigError, match=got), per_image_norms(network, 2):
            pass
    flattened = Flattened()
    with (
        pytest.raises(ConfigError, match=r"norm norm is \(6, 4\).*of 2 images"),
        per_image_norms(flattened, 2),
    ):
        flattened(torch.randn(2, 3, 4))
    assert not flattened.norm._forward_hooks
