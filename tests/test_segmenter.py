"""What the label maps of a segmenter are checked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from castssl.errors import ContractError
from castssl.segmenter import Segmenter, label_maps

IMAGE = np.zeros((4, 5, 3), np.uint8)


class Returns(Segmenter):
    def __init__(self, result: Any) -> None:
        self.result = result

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> Any:
        return self.result


def test_what_the_contract_requires_is_returned_as_it_is() -> None:
    maps = np.arange(40, dtype=np.int32).reshape(2, 4, 5)
    assert label_maps(Returns(maps), IMAGE) is maps
    assert label_maps(Returns(maps), IMAGE, levels=2) is maps


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (np.zeros((2, 4, 5)), r"float64 \(2, 4, 5\)"),
        (np.zeros((2, 4, 5), np.int64), r"int64 \(2, 4, 5\)"),
        (np.zeros((4, 5), np.int32), r"int32 \(4, 5\)"),
        (np.zeros((2, 5, 4), np.int32), r"int32 \(2, 5, 4\)"),
        (np.zeros((0, 4, 5), np.int32), r"int32 \(0, 4, 5\)"),
        (np.zeros((1, 4, 5), np.int32), r"int32 \(1, 4, 5\)"),
        (np.full((2, 4, 5), -1, np.int32), r"int32 \(2, 4, 5\) with the segment -1"),
        (None, "a NoneType"),
        ([[[0] * 5] * 4] * 2, "a list"),
    ],
)
def test_anything_else_is_named(result: Any, got: str) -> None:
    message = rf"Returns returned {got} for the image a\.png, expected int32 \(2, 4, 5\)"
    with pytest.raises(ContractError, match=message):
        label_maps(Returns(result), IMAGE, "a.png", levels=2)
