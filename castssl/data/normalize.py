"""Raw views become views on the device: superpixels that run there, then normalization."""

from __future__ import annotations

import torch
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.encoder_config import imagenet
from castssl.errors import ContractError
from castssl.superpixel_labels import partition
from castssl.types import Batch, View


def to_views(
    batch: Batch, superpixels: Superpixels | None = None, device: torch.device | str | None = None
) -> Batch:
    """The batch on ``device`` with float images and segments, without waiting for the device.

    Args:
        batch: of raw views: uint8 images (B, C, H, W), segments int32 (B, H, W) or (B, 0, 0).
        superpixels: computed here, without gradient, if they run on the device; None leaves the segments.
        device: the target; None leaves the tensors where they are.

    Returns:
        Views with float32 images, normalized with ImageNet's mean and standard deviation, and int32 segments.

    Raises:
        ContractError: if the superpixels run in workers but the loader has not run them; on a CPU
            also if a label is not below their capacity, see :mod:`castssl.superpixel_labels`.
    """
    return Batch(
        views=[_to_view(view, superpixels, device) for view in batch.views],
        target=_move(batch.target, device),
        text=None if batch.text is None else _move(batch.text, device),
    )


def _to_view(view: View, superpixels: Superpixels | None, device: torch.device | str | None) -> View:
    image, segments = _move(view.image, device), _move(view.segments, device)
    if superpixels is not None and superpixels.runs_on == "device":
        with torch.no_grad():
            segments = partition(superpixels, image)
    elif superpixels is not None and not segments.numel():
        raise ContractError(
            f"superpixels that run in workers must be given to the loader: got segments of shape"
            f" {tuple(segments.shape)} for images of shape {tuple(image.shape)}; pass them to load() too"
        )
    return View(normalize(image), segments)


def _move(tensor: Tensor, device: torch.device | str | None) -> Tensor:
    return tensor if device is None else tensor.to(device, non_blocking=True)


def normalize(image: Tensor) -> Tensor:
    """uint8 (..., C, H, W) -> float32; RGB with zero mean and unit variance on ImageNet.

    Bit for bit torchvision's ``ToTensor`` and ``Normalize``.  Other channels have RGB's average constants.
    """
    scaled, (mean, std) = image.to(torch.float32) / 255, imagenet(image.shape[-3])
    return (scaled - _constant(mean, image.device)) / _constant(std, image.device)


def denormalize(image: Tensor) -> Tensor:
    """Float32 as :func:`normalize` returns it -> uint8 (..., C, H, W), which it was made of."""
    mean, std = imagenet(image.shape[-3])
    scaled = image * _constant(std, image.device) + _constant(mean, image.device)
    return (scaled * 255).round().clamp(0, 255).to(torch.uint8)


def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Filled on the device: copying a list to it would make the host wait.
    return torch.stack([torch.full((1, 1), value, device=device) for value in values])
