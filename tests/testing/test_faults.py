"""An error of a plugin in a check says what the plugin was given, and where it is."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from castssl.contracts import Superpixels
from castssl.testing import superpixels
from castssl.testing.claims import make, run
from castssl.testing.faults import described, located
from castssl.testing.samples import view
from castssl.types import View


class Square(Superpixels):
    """Superpixels of square images alone."""

    def capacity(self, height: int, width: int) -> int:
        return 1

    def __call__(self, images: Tensor) -> Tensor:
        return self._whole(images.shape)

    def _whole(self, shape: torch.Size) -> Tensor:
        assert shape[-1] == shape[-2]
        return torch.zeros(shape[0], *shape[2:], dtype=torch.int32)


def line_of(method: object) -> str:
    """The place of the first line of a method's body."""
    return f"{__file__}:{inspect.getsourcelines(method)[1] + 1}"  # type: ignore[arg-type]


def test_a_bare_assertion_has_the_case_and_the_line() -> None:
    (result,) = run([superpixels.check_partitions], Square)
    assert result.error is not None
    place = f"at {line_of(Square._whole)} (assert shape[-1] == shape[-2])"
    assert described(result.error).startswith("AssertionError")
    assert described(result.error).endswith(f", given images uint8 (2, 3, 65, 81), {place}")
    assert located(result.error) == described(result.error).replace(", given images uint8 (2, 3, 65, 81)", "")
    assert result.promise == "Labels are int32 (B, H, W) in [0, capacity), at square and odd image sizes."
    (refused,) = run([superpixels.check_refuses_wrong_input], Square)
    assert "given float32 images, raise ValueError, not AssertionError" in str(refused.error)
    assert place in str(refused.error)


def test_libraries_are_not_the_plugin() -> None:
    class Wide(nn.Module):
        def forward(self, view: View, weight: Tensor) -> Tensor:
            return nn.functional.linear(torch.zeros(2, 3), weight)

    try:
        make("encoders", Wide(), view(1), torch.zeros(4, 5))
    except RuntimeError as fault:
        words = described(fault)
    assert f", at {line_of(Wide.forward)} (return nn.functional.linear(" in words
    assert ", given view.image float32 (" in words
    assert ", view.segments int" in words
