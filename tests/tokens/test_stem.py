"""The stem's strides and refusals."""

from __future__ import annotations

import pytest
import torch

from castssl.tokens.stem import STRIDES, ConvStem


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47)])
def test_one_cell_every_stride_pixels(stride: int, height: int, width: int) -> None:
    features = ConvStem(16, stride=stride)(torch.randn(2, 3, height, width))
    assert features.shape == (2, 16, -(-height // stride), -(-width // stride))


def test_other_strides_and_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3"):
        ConvStem(16, stride=3)
    with pytest.raises(ValueError, match="multiple of 8, got 20"):
        ConvStem(20)


def test_a_cell_is_one_row_in_memory() -> None:
    features = ConvStem(16)(torch.randn(2, 3, 32, 40))
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert features.flatten(2).transpose(1, 2).is_contiguous()
