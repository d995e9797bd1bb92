"""Superpixels as they are used: computed, and their labels compared with the tokens that exist.

On a processor a label out of range is an error at once.  A device is not waited for: there the label becomes
-1, which joins no token, so no other image of the batch changes; the number of such pixels is kept on the
device until :func:`take_strays` collects it together with the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.errors import ContractError

ADVICE = "run `castssl check superpixels NAME`, and raise capacity() or merge segments"
"""The next step for an author of superpixels."""
RGB = 3
_strays: dict[torch.device, Tensor] = {}


def partition(superpixels: Superpixels, images: Tensor) -> Tensor:
    """The superpixels of a batch, compared with their contract.

    Args:
        superpixels: the backend.
        images: uint8 (B, C, H, W).

    Returns:
        int32 (B, H, W) in [0, capacity(H, W)); on a device also -1, see the module's docstring.

    Raises:
        ContractError: if dtype, shape or (on a processor) a label is not as promised.
    """
    return checked(superpixels, superpixels(three_channels(images, superpixels.channels)), images)


def three_channels(images: Tensor, channels: Sequence[int]) -> Tensor:
    """RGB itself, and three channels of other images, the last for one that they lack.

    Args:
        images: (..., C, H, W).
        channels: numbers of three channels, from 0.
    """
    count = images.shape[-3]
    if count == RGB:
        return images
    return torch.stack([images.select(-3, min(channel, count - 1)) for channel in channels], -3)


def checked(superpixels: Superpixels, labels: Tensor, images: Tensor) -> Tensor:
    """Labels that superpixels returned, compared with their contract as in :func:`partition`."""
    shape = (len(images), *images.shape[-2:])
    if labels.dtype != torch.int32 or labels.shape != shape:
        raise ContractError(
            f"{superpixels!r} returned {labels.dtype} of shape {tuple(labels.shape)}, expected torch.int32 of"
            f" shape {shape}; {ADVICE}"
        )
    return bounded(labels, superpixels.capacity(*shape[1:]), f"the capacity of {superpixels!r}")


def bounded(labels: Tensor, size: int, whose: str) -> Tensor:
    """The labels if all are in [0, size); on a device -1 in place of every other one.

    Args:
        labels: int (B, H, W).
        size: how many labels there are.
        whose: what the size is, for the message.

    Raises:
        ContractError: on a processor, if a label is out of range.  Not while a graph is compiled, exported or
            traced: there the labels become -1.
    """
    # a fake tensor is on a processor, too, but has no values
    plain = type(labels) is Tensor and not (torch.compiler.is_compiling() or is_tracing())
    if plain and _at_once(labels.device):
        if not labels.numel():
            return labels
        low, high = torch.aminmax(labels)
        if type(low) is Tensor:  # a fake mode makes fake results of real tensors
            _refuse(int(low), int(high), size, whose)
            return labels
    labels = labels.int() if labels.dtype == torch.uint8 else labels
    beyond = (labels < 0) | (labels >= size)
    if plain and labels.device.type != "meta":
        count = beyond.sum()
        if type(count) is Tensor:
            before = _strays.get(labels.device)
            _strays[labels.device] = count if before is None else before + count
    return labels.masked_fill(beyond, -1)


def take_strays(device: torch.device) -> Tensor:
    """How many pixels had labels out of range since the last call: float32 scalar on ``device``.

    Nothing waits for the device.
    """
    count = torch.zeros((), device=device)
    for other in [other for other in _strays if other.type == device.type]:
        count = count + _strays.pop(other).to(device, torch.float32)
    return count


def _at_once(device: torch.device) -> bool:
    """Whether values can be read without waiting."""
    return device.type == "cpu"


def is_tracing() -> bool:
    """True while ``torch.jit.trace`` records what is computed."""
    jit: Any = torch.jit  # its functions have no types
    return bool(jit.is_tracing())


def _refuse(low: int, high: int, size: int, whose: str) -> None:
    if low < 0 or high >= size:
        raise ContractError(
            f"segments have labels from {low} to {high}, expected 0 to {size - 1}, {whose}; take the"
            " model's own superpixels, as by ToView(encoder.config), or give it more tokens (--sizes); for"
            f" superpixels of your own, {ADVICE}"
        )
