"""Scores of partitions: overlap with objects, recall of boundaries, variation explained, pixels apart.

Everything is batched, and each score comes back per image, so that a caller may average, bootstrap or sort.

Superpixel scores as surveyed by Stutz, Hermans & Leibe, "Superpixels: An evaluation of the state of the
art", https://arxiv.org/abs/1612.01601: boundary recall, the explained variation of Moore et al. 2008, the
undersegmentation error of Neubert & Protzel 2012, the achievable segmentation accuracy of Liu et al. 2011.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.connected_parts import connected_parts


def best_overlap(labels: Tensor, masks: Tensor) -> Tensor:
    """The IoU of each image's mask with the one segment that fits it best.

    Args:
        labels: integer (B, H, W); a negative label belongs to no segment.
        masks: bool (B, H, W), True on the object.

    Returns:
        float32 (B,) in [0, 1]; 0 where the mask is empty.

    Raises:
        ValueError: if the shapes differ or ``masks`` is not bool.
    """
    _same_shape("best_overlap", labels, masks)
    if masks.dtype != torch.bool:
        raise ValueError(f"best_overlap: masks must be bool, got {masks.dtype}; compare first (mask > 127)")
    slots, count = _slots(labels)
    inside = _sums(slots, masks.flatten(1).long(), count)
    area = _sums(slots, torch.ones_like(slots), count)
    union = area + masks.flatten(1).sum(1, keepdim=True) - inside
    overlap = inside / union.clamp(min=1)
    overlap[:, 0] = 0
    return overlap.amax(1)


def boundary_recall(labels: Tensor, truth: Tensor, *, tolerance: int = 2) -> Tensor:
    """The share of true boundary pixels with a boundary of ``labels`` close by.

    A pixel is on a boundary if the pixel to its right or below has another label.

    Args:
        labels: integer (B, H, W), the partition to score.
        truth: integer or bool (B, H, W), the true regions; negative where unknown, which has no boundary.
        tolerance: how far off a boundary may be, in pixels along either axis (a square window).

    Returns:
        float32 (B,) in [0, 1]; 1 where ``truth`` has no boundary.

    Raises:
        ValueError: if the shapes differ or ``tolerance`` is negative.
    """
    _same_shape("boundary_recall", labels, truth)
    if tolerance < 0:
        raise ValueError(f"boundary_recall: tolerance must be 0 pixels or more, got {tolerance}")
    near = boundaries(labels).float().unsqueeze(1)
    near = F.max_pool2d(near, 2 * tolerance + 1, stride=1, padding=tolerance).squeeze(1) > 0
    wanted = boundaries(truth.long(), known_only=True)
    hits = (near & wanted).flatten(1).sum(1).float()
    total = wanted.flatten(1).sum(1)
    return torch.where(total > 0, hits / total.clamp(min=1), 1.0)


def explained_variation(labels: Tensor, images: Tensor) -> Tensor:
    """The share of the color variance between segments: 1 if each has one color, 0 if all are equal.

    Args:
        labels: integer (B, H, W); pixels with a negative label are left out.
        images: uint8 or float (B, C, H, W), in whichever color space the variance is to be taken.

    Returns:
        float32 (B,) in [0, 1]; 1 for an image of one color, not a number for an image with such values.

    Raises:
        ValueError: if the sizes differ.
    """
    if images.dim() != 4 or labels.shape != images[:, 0].shape:
        raise ValueError(
            f"explained_variation: expected labels (B, H, W) and images (B, C, H, W) of one size,"
            f" got {tuple(labels.shape)} and {tuple(images.shape)}"
        )
    slots, count = _slots(labels)
    counted = (slots > 0).unsqueeze(1)
    colors = images.flatten(2).float()
    mean = (colors * counted).sum(2, keepdim=True) / counted.sum(2, keepdim=True).clamp(min=1)
    colors = (colors - mean) * counted
    mass = _sums(slots, torch.ones_like(slots), count).clamp(min=1)
    index = slots.unsqueeze(1).expand(-1, colors.shape[1], -1)
    sums = colors.new_zeros(*colors.shape[:2], count).scatter_add_(2, index, colors)
    between = (sums.square() / mass.unsqueeze(1)).sum((1, 2))
    total = colors.square().sum((1, 2))
    return torch.where(total == 0, 1.0, between / total).clamp(0, 1)


def apart(labels: Tensor) -> Tensor:
    """The share of pixels outside of the largest 4-connected part of their segment.

    Segments in many parts explain more variation and recall more boundaries: this is the price.

    Args:
        labels: integer (B, H, W); pixels with a negative label are left out.

    Returns:
        float32 (B,) in [0, 1): 0 if each segment is connected.
    """
    shares = []
    for one in labels.cpu().numpy():
        numbered = np.unique(one, return_inverse=True)[1].reshape(one.shape)  # Labels may have 64 bits.
        parts = connected_parts(np.asarray(numbered, np.int32))
        minor = parts.minor.take(parts.numbers)[one >= 0]
        shares.append(float(minor.mean()) if minor.size else 0.0)
    return torch.tensor(shares, device=labels.device)


def undersegmentation_error(labels: Tensor, truth: Tensor) -> Tensor:
    """How far segments reach over true regions: the smaller side of each segment that a region cuts.

    Neubert & Protzel, "Superpixel benchmark and comparison", 2012: the sum over regions G and the segments S
    that meet them of the smaller of "S in G" and "S outside G", divided by the number of pixels.

    Args:
        labels: integer (B, H, W), the partition to score.
        truth: integer or bool (B, H, W), the true regions.  Pixels with a negative label in either are left
            out.

    Returns:
        float32 (B,), 0 or more: 0 if no segment crosses a border.

    Raises:
        ValueError: if the shapes differ.
    """
    shared = shared_pixels("undersegmentation_error", labels, truth)
    outside = shared.sum(2, keepdim=True) - shared
    return torch.minimum(shared, outside).sum((1, 2)) / shared.sum((1, 2)).clamp(min=1)


def achievable_accuracy(labels: Tensor, truth: Tensor) -> Tensor:
    """The share of pixels that are right if each segment is given to the one region that it shares most with.

    Liu, Tuzel, Ramalingam & Chellappa, "Entropy rate superpixel segmentation", 2011.  No
    classifier of whole segments can be right more often.

    Args:
        labels: integer (B, H, W), the partition to score.
        truth: integer or bool (B, H, W), the true regions.  Pixels with a negative label in either are left
            out.

    Returns:
        float32 (B,) in [0, 1]; 1 if no pixel is left.

    Raises:
        ValueError: if the shapes differ.
    """
    shared = shared_pixels("achievable_accuracy", labels, truth)
    total = shared.sum((1, 2))
    return torch.where(total > 0, shared.amax(2).sum(1) / total.clamp(min=1), 1.0)


def nestedness(fine: Tensor, coarse: Tensor) -> Tensor:
    """The share of pixels in the coarse segment that most pixels of their fine segment are in.

    It is :func:`achievable_accuracy` with the coarse segments in place of true regions.

    Args:
        fine: integer (B, H, W), the finer segments.
        coarse: integer (B, H, W), the coarser segments.  Pixels with a negative label in either are left out.

    Returns:
        float32 (B,) in [0, 1]; 1 if each fine segment lies in one coarse segment.

    Raises:
        ValueError: if the shapes differ.
    """
    return achievable_accuracy(fine, coarse)


def majority_labels(labels: Tensor, truth: Tensor) -> Tensor:
    """The region that each segment shares most with, at its pixels: int64 (B, H, W).

    -1 for pixels with a negative label and for segments that share no pixel with a region.  Arguments and
    errors are those of :func:`achievable_accuracy`, which is the share of these that are right.
    """
    shared = shared_pixels("majority_labels", labels, truth)
    best = shared.argmax(2) - 1
    slots = _slots(labels)[0]
    return best.gather(1, slots).view(labels.shape)


def boundaries(labels: Tensor, *, known_only: bool = False) -> Tensor:
    """True where the pixel to the right or below has another label: integer (B, H, W) -> bool (B, H, W).

    Args:
        labels: integer.
        known_only: negative labels have no boundary.
    """
    edge = torch.zeros_like(labels, dtype=torch.bool)
    counted = labels >= 0 if known_only else torch.ones_like(edge)
    edge[:, :, :-1] |= (labels[:, :, 1:] != labels[:, :, :-1]) & counted[:, :, 1:] & counted[:, :, :-1]
    edge[:, :-1] |= (labels[:, 1:] != labels[:, :-1]) & counted[:, 1:] & counted[:, :-1]
    return edge


def shared_pixels(name: str, labels: Tensor, truth: Tensor) -> Tensor:
    """How many pixels each segment shares with each region.

    Args:
        name: the calling function, for the message of an error.
        labels: integer (B, H, W), the segments.
        truth: integer or bool (B, H, W), the regions.  Pixels with a negative label in either are left out.

    Returns:
        int64 (B, S + 1, R + 1).  The first row and column are zeros, so that there is a largest even if no
        pixel has a label: segment s is row s + 1.

    Raises:
        ValueError: if the shapes differ.
    """
    _same_shape(name, labels, truth)
    (slots, count), (regions, many) = _slots(labels), _slots(truth)
    pairs = _sums(slots * many + regions, torch.ones_like(slots), count * many)
    return F.pad(pairs.view(-1, count, many)[:, 1:, 1:], (1, 0, 1, 0))


def _same_shape(name: str, labels: Tensor, other: Tensor) -> None:
    if labels.dim() != 3 or labels.shape != other.shape:
        raise ValueError(
            f"{name}: expected two maps (B, H, W) of one shape, got {tuple(labels.shape)} and"
            f" {tuple(other.shape)}; resize labels with mode 'nearest' first"
        )


def _slots(labels: Tensor) -> tuple[Tensor, int]:
    """Labels moved up by one and flattened, int64 (B, H * W), 0 for "no segment"; and how many slots."""
    slots = labels.long().clamp(min=-1).flatten(1) + 1
    return slots, int(slots.max()) + 1 if slots.numel() else 1


def _sums(slots: Tensor, values: Tensor, count: int) -> Tensor:
    """Sums of int64 ``values`` (B, P) by slot: int64 (B, count), exact."""
    return values.new_zeros(slots.shape[0], count).scatter_add_(1, slots, values)
