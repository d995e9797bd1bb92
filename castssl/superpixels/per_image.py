"""Apply a numpy partition of single images to a batch, and check the input.

A CPU backend is a function ``(H, W, 3) uint8 -> (H, W) integers`` and :func:`per_image`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from castssl.errors import ContractError

Partition = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""One RGB image, uint8 (H, W, 3) or (3, H, W), to integer labels (H, W)."""


def check(images: Tensor) -> None:
    """Refuse anything but uint8 (B, 3, H, W) with H, W >= 1.

    Raises:
        ValueError: naming the dtype and shape expected and got.
    """
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or 0 in shape[2:]:
        raise ValueError(
            f"superpixels expect RGB images as torch.uint8 of shape (B, 3, H, W), got {images.dtype} of shape"
            f" {shape}; pass images as values 0 to 255, before any normalization"
        )


def per_image(partition: Partition) -> Callable[[Tensor], Tensor]:
    """A batched version of ``partition``: uint8 (B, 3, H, W) -> int32 (B, H, W) on the same device.

    The function sees each image as a contiguous (H, W, 3) array of its own, so it may write into it.

    Raises:
        ValueError: if the images are not uint8 (B, 3, H, W).
        ContractError: if ``partition`` returns another shape than (H, W), or no integers.
    """
    return per_planes(lambda planes: partition(np.asarray(cv2.merge(list(planes)), np.uint8)))


def per_planes(partition: Partition) -> Callable[[Tensor], Tensor]:
    """As :func:`per_image`, of a function of the channels (3, H, W), which it must not change."""

    def batched(images: Tensor) -> Tensor:
        check(images)
        batch, _, height, width = images.shape
        # not by torch: in a worker, nothing may start a thread
        pixels = images.detach().cpu().numpy()
        segments = np.empty((batch, height, width), np.int32)
        for row in range(batch):
            labels = np.asarray(partition(pixels[row]))
            if labels.shape != (height, width) or not np.issubdtype(labels.dtype, np.integer):
                raise ContractError(
                    f"a partition must return integers of shape {(height, width)}, got {labels.dtype} of"
                    f" shape {labels.shape}; return one label per pixel"
                )
            segments[row] = labels
        return torch.from_numpy(segments).to(images.device)

    return batched
