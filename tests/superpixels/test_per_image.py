from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from castssl.errors import ContractError
from castssl.superpixels.per_image import check, per_image, per_planes


def _brightness(image: NDArray[np.uint8]) -> NDArray[Any]:
    """Two segments: dark and bright; scribbles over its input to prove that it owns it."""
    labels = np.asarray(image.astype(np.int64).sum(-1) > 3 * 127, np.int64)
    image[:] = 0
    return labels


def test_lifts_one_image_to_a_batch() -> None:
    images = torch.randint(0, 256, (3, 3, 5, 8), dtype=torch.uint8)
    before = images.clone()
    segments = per_image(_brightness)(images)
    assert segments.dtype == torch.int32
    assert torch.equal(segments, (images.long().sum(1) > 3 * 127).int())
    assert torch.equal(images, before)


def test_a_function_of_channels_sees_each_image() -> None:
    images = torch.randint(0, 256, (3, 3, 5, 8), dtype=torch.uint8)
    dark = per_planes(lambda planes: np.asarray(planes.astype(np.int64).sum(0) > 3 * 127, np.int64))
    assert torch.equal(dark(images), per_image(_brightness)(images))


def test_an_empty_batch_stays_empty() -> None:
    assert per_image(_brightness)(torch.empty(0, 3, 4, 6, dtype=torch.uint8)).shape == (0, 4, 6)


def test_reads_strided_images_right() -> None:
    images = torch.randint(0, 256, (2, 9, 7, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    lifted = per_image(_brightness)
    assert torch.equal(lifted(images), lifted(images.contiguous()))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(1, 1, 4, 4, dtype=torch.uint8),
        torch.zeros(1, 4, 4, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 0, 4, dtype=torch.uint8),
    ],
)
def test_refuses_wrong_input(images: torch.Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"uint8 of shape \(B, 3, H, W\), got torch\.(uint8|float32)"
    ) as caught:
        check(images)
    assert str(tuple(images.shape)) in str(caught.value)


@pytest.mark.parametrize("labels", [np.zeros((4, 5), np.int32), np.zeros((4, 4), np.float32)])
def test_refuses_a_wrong_partition(labels: NDArray[Any]) -> None:
    with pytest.raises(ContractError, match=r"integers of shape \(4, 4\)"):
        per_image(lambda image: labels)(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
