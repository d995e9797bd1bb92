"""How well segments cut out the true regions of an image: region mIoU (H-CAST's poster).

The poster shows "region accuracy on BREEDS with ground truth segmentation" and defines no measure.  CAST's
part-to-whole evaluation (https://arxiv.org/abs/2210.00314, appendix E.3) names each segment by CLIP and takes
the mean IoU of the regions of each image, background included, then the mean over images.
:func:`region_iou` is that without the naming: each segment gets the name that suits it best.  It is the
default here, because it asks about the whole partition, as naming does, and about nothing but the partition.
:func:`single_segment_iou` asks more: that one segment be the region.

The first mostly grows with the number of segments, whatever these show, and the second falls: compare at
equal numbers only, and with segments merged at random.
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
    shared, area = _counts("region_iou", labels, truth)
    assigned = F.one_hot(shared.argmax(2), shared.shape[2])
    inside = (shared * assigned).sum(1)
    reached = (shared.sum(2, keepdim=True) * assigned).sum(1)
    return _mean(inside / (area + reached - inside).clamp(min=1), area)


def single_segment_iou(labels: Tensor, truth: Tensor) -> Tensor:
    """Mean over an image's regions of the IoU with the one segment that fits each best.

    The same segment may serve several regions, so that this knows nothing of the partition as a whole; more
    segments than regions make it smaller.  Arguments, result and errors are those of :func:`region_iou`.
    """
    shared, area = _counts("single_segment_iou", labels, truth)
    union = area.unsqueeze(1) + shared.sum(2, keepdim=True) - shared
    return _mean((shared / union.clamp(min=1)).amax(1), area)


def _counts(name: str, labels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels that segments share with regions, int64 (B, S, R), and the regions' areas, (B, R)."""
    # Pixels without a segment are a row of their own: they count in the area of their region.
    shared = shared_pixels(name, labels.long().clamp(min=-1) + 1, truth)
    area = shared.sum(1)
    shared[:, 1:2] = 0
    return shared, area


def _mean(iou: Tensor, area: Tensor) -> Tensor:
    present = area > 0
    return torch.where(present, iou, 0).sum(1) / present.sum(1)
