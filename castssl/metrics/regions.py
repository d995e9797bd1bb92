"""How well segments cut out the true regions of an image: region mIoU, precision and recall.

H-CAST's poster shows "region accuracy on BREEDS with ground truth segmentation" and defines no measure.
CAST's part-to-whole evaluation (https://arxiv.org/abs/2210.00314, appendix E.3) names each segment by CLIP
and takes the mean IoU of the regions of each image, background included, then the mean over images.
:func:`region_iou` is that without CLIP: each segment gets the best name, so only the partition counts.

All mostly grow with the number of segments: compare equal numbers only, and with segments merged at random.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.metrics.partition import shared_pixels


def region_iou(labels: Tensor, truth: Tensor) -> Tensor:
    """Mean IoU of an image's regions if each segment is given to the region that it shares most pixels with.

    Args:
        labels: integer (B, H, W), the segments; a negative label belongs to no segment, and so to no region.
        truth: integer (B, H, W), the true regions, the background being one of them; pixels with a negative
            number are left out of everything.  Of two regions that share equally much, the one of the
            smaller number gets the segment.

    Returns:
        float32 (B,) in [0, 1], over the regions that the image has; not a number if no pixel of it is known.

    Raises:
        ValueError: if the shapes differ.
    """
    # Pixels without a segment are a row of their own: they count in the area of their region.
    shared = shared_pixels("region_iou", labels.long().clamp(min=-1) + 1, truth)
    area = shared.sum(1)
    shared[:, 1:2] = 0
    assigned = F.one_hot(shared.argmax(2), shared.shape[2])
    inside = (shared * assigned).sum(1)
    reached = (shared.sum(2, keepdim=True) * assigned).sum(1)
    iou, present = inside / (area + reached - inside).clamp(min=1), area > 0
    return torch.where(present, iou, 0).sum(1) / present.sum(1)


def precision_recall(labels: Tensor, truth: Tensor) -> Tensor:
    """Precision and recall of the segment that fits each region of an image best, as means over its regions.

    The segment s of a region g is the one with the largest IoU; it may be that of several regions.  Precision
    is their common share of the segment, recall that of the region.  CAST (https://arxiv.org/abs/2210.00314,
    table 2) reports such numbers for DensePose without a definition, so this one is castssl's.  The table's
    F-scores are :func:`f_score` of its precisions and recalls, so F is computed after all means.

    Args:
        labels: integer (B, H, W), the segments; a negative label belongs to no segment.
        truth: integer (B, H, W), the true regions 1, 2, ...; 0 is background, which counts in the area of
            segments alone, and pixels with a negative number are left out of everything.

    Returns:
        float64 (B, 2) in [0, 1]; not a number for an image without regions.  Of segments that fit equally
        well, the one of the smallest number counts.

    Raises:
        ValueError: if the shapes differ.
    """
    shared = shared_pixels("precision_recall", labels.long().clamp(min=-1) + 1, truth)
    area, reached = shared.sum(1), shared.sum(2)
    shared[:, 1:2] = 0
    iou = shared.double() / (area[:, None] + reached[:, :, None] - shared).clamp(min=1)
    best = iou.argmax(1)
    inside = shared.gather(1, best[:, None])[:, 0]
    present = area > 0
    present[:, :2] = False
    scores = torch.stack([inside / reached.gather(1, best).clamp(min=1), inside / area.clamp(min=1)], 2)
    return (scores.double() * present[..., None]).sum(1) / present.sum(1, keepdim=True)


def f_score(precision: float, recall: float) -> float:
    """The harmonic mean of precision and recall; 0 if both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
